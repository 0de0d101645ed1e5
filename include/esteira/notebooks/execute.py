"""The retraining notebook, executed by papermill."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path

TEMPLATE = Path(__file__).parent / "retraining.ipynb"


def execute(target: Path, parameters: Mapping[str, str]) -> None:
    """Write the notebook to `target`, executed with the parameters; the same content is the same file."""
    import papermill
    from jupyter_client.manager import AsyncKernelManager

    class LocalKernel(AsyncKernelManager):
        """A kernel that is spoken to through sockets in a private folder: it listens on no port."""

        def __init__(self, *given: object, **options: object) -> None:
            super().__init__(*given, **{**options, "transport": "ipc", "ip": f"{sockets}/kernel"})

    # A folder of its own: by default the sockets have the same names for every kernel that starts in one folder.
    with tempfile.TemporaryDirectory(prefix="esteira-") as sockets, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # papermill's own use of Jupyter's older paths
        papermill.execute_notebook(
            str(TEMPLATE),
            str(target),
            dict(parameters),
            kernel_name="python3",
            progress_bar=False,
            log_output=False,
            kernel_manager_class=LocalKernel,
        )
    _strip(target)


def _strip(path: Path) -> None:
    """Take out what papermill notes of this machine, of the clock and by lot, so that the same content is the same notebook."""
    import nbformat

    book = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    for place in (book, *book.cells):
        for name in ("papermill", "execution"):
            place["metadata"].pop(name, None)
    for number, cell in enumerate(book.cells):
        cell["id"] = f"cell-{number}"  # papermill gives the cell that it puts in a name by lot
    nbformat.write(book, path)  # type: ignore[no-untyped-call]
