"""What the libraries that read sources take from the environment."""

from __future__ import annotations

import os


def skip_instance_metadata() -> None:
    """Ask no metadata service of a cloud for a role or a region, unless the environment says to.

    For every s3:// address the storage library would ask 169.254.169.254, which outside of that cloud is another machine,
    or none: each read would wait for it.
    """
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
