"""What operators do with the stack: scale it, back it up and restore it, deploy the next image, remove it."""

from __future__ import annotations

import base64
import contextlib
import getpass
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from pathlib import Path

from ops.api import Airflow
from tests import models
from tests.compose.stack import NAME, READY_WITHIN, Stack, is_open
from tests.ports import free_port
from tests.soak.runs import LAST

SIMULATED = ("toll_traffic", "queue_time")
AS_OF, HEALTHY, CHANGED = date(2026, 1, 31), date(2026, 2, 14), date(2026, 3, 1)  # as in `make demo`


def scale(stack: Stack) -> None:
    """Three workers by a number: the third works, too; and back."""
    with stack.step("docker compose up --scale airflow-worker=3") as notes:
        up = ("up", "--detach", "--wait", "--no-recreate", "--wait-timeout", str(READY_WITHIN))
        stack.compose(*up, "--scale", "airflow-worker=3")
        workers = {each[:12] for each in stack.containers("airflow-worker")}
        runs = [stack.start("train", name, day=models.AS_OF - timedelta(days=1)) for name in ("calm", *SIMULATED)]
        for run in runs:
            stack.expect(stack.ended(run) == "success", f"{run} failed: {stack.airflow.tasks(*run)}")
        hosts = stack.hosts(*runs) & workers
        stack.expect(len(workers) == 3 and len(hosts) == 3, f"{len(hosts)} of {len(workers)} workers worked")
        notes.append(f"{len(hosts)} of 3 workers worked")
        stack.compose(*up, "--scale", "airflow-worker=2")


def saved(stack: Stack, place: Path, names: Sequence[str]) -> None:
    """make backup; down -v; make restore: the same tables, runs and champions, and the next day is scored."""
    secret = {"connection_id": "vault", "conn_type": "http", "password": "to-be-kept"}
    stack.airflow.call("POST", "/connections", json=secret)
    for name in SIMULATED:  # they have a schedule: a run that begins by the clock would change what is compared
        stack.airflow.unpause(f"{name}_score", paused=True)
    wanted, history = stack.images(names), _history(stack)
    with stack.step("make backup") as notes:
        stack.call("make", "backup", TO=str(place / "backup"))
        files = list((place / "backup").iterdir())
        notes.append(f"{sum(path.stat().st_size for path in files) / 1e6:.0f} MB")
        modes = {stat.S_IMODE(path.stat().st_mode) for path in files}
        stack.expect(modes == {0o600}, f"others may read the backup: {modes}")
    with stack.step("make restore onto what is there: refused"):
        done = stack.call("make", "restore", check=False, FROM=str(place / "backup"))
        stack.expect(done.returncode != 0 and "down --volumes" in done.stderr, f"it was not: {done.stderr[-300:]}")
    with stack.step("docker compose down -v"):
        stack.compose("down", "--volumes")
    with stack.step("make restore") as notes:
        stack.call("make", "restore", FROM=str(place / "backup"))
        stack.log_in()
        got = stack.images(names)
        for name in names:
            # Mails are the catcher's, and not in a backup.
            differing = [part for part in wanted[name] if part != "mails" and wanted[name][part] != got[name][part]]
            stack.expect(not differing, f"{name} is not as it was: {differing}")
        stack.expect(_history(stack) == history, "Airflow's runs are not as they were")
        read = "from airflow.models import Connection; print(Connection.get_connection_from_secrets('vault').password)"
        told = stack.compose("exec", "-T", "airflow-scheduler", "python", "-W", "ignore", "-c", read).stdout
        stack.expect("to-be-kept" in told, "a connection's password can't be read any more")
        notes.append(f"{len(names)} models, {len(history)} runs and an encrypted connection as before")
    with stack.step("a score after the restore"):
        run = stack.start("score", "calm", day=LAST + timedelta(days=2), check=False)
        stack.expect(stack.ended(run) == "success", f"it failed: {stack.airflow.tasks(*run)}")


def _history(stack: Stack) -> list[tuple[str, str, str]]:
    """Every run of the models' DAGs."""
    found: list[dict[str, str]] = []
    while True:
        page = {"limit": 100, "offset": len(found), "order_by": "id"}
        some = stack.airflow.call("GET", "/dags/~/dagRuns", params=page)["dag_runs"]
        found += some
        if len(some) < 100:
            return sorted((r["dag_id"], r["dag_run_id"], r["state"]) for r in found if "esteira_" not in r["dag_id"])


def deployed(stack: Stack, place: Path) -> None:
    """make deploy of another image, as a pipeline does: refused without a host, over ssh where there is a server for it."""
    image = "esteira:test-next"
    stack.call("docker", "tag", "esteira:test", image)
    dotenv = base64.b64encode((stack.folder / ".env").read_bytes()).decode()
    with stack.step("make deploy without a host: refused"):
        done = stack.call("make", "deploy", check=False, ESTEIRA_IMAGE=image)
        stack.expect(done.returncode != 0 and "DEPLOY_HOST is not set" in done.stderr, f"it was not: {done.stderr}")
    with contextlib.ExitStack() as meanwhile:
        host = meanwhile.enter_context(_ssh_server(place)) if shutil.which("sshd") else {"DEPLOY_HOST": "local"}
        by = "over ssh" if len(host) > 1 else "on this machine; no sshd to try ssh with"
        with stack.step(f"make deploy of the next image, {by}") as notes:
            (stack.folder / ".env").rename(place / "env")
            try:
                stack.call("make", "deploy", ESTEIRA_IMAGE=image, DOTENV_BASE64=dotenv, **host)
            finally:
                (place / "env").rename(stack.folder / ".env")
            stack.environment["ESTEIRA_IMAGE"] = image
            stack.log_in()
            used = stack.call("docker", "inspect", "--format", "{{.Config.Image}}", *stack.containers()).stdout.split()
            stack.expect("esteira:test" not in used and image in used, f"these images run: {sorted(set(used))}")
            run = stack.start("score", "calm", day=LAST + timedelta(days=3), check=False)
            stack.expect(stack.ended(run) == "success", f"a score failed: {stack.airflow.tasks(*run)}")
            notes.append("all services run it; a score after it ended well")


@contextlib.contextmanager
def _ssh_server(place: Path) -> Iterator[dict[str, str]]:
    """An ssh server on the loopback with keys of its own; what `make deploy` needs to know of it."""
    folder, port = place / "ssh", free_port()
    folder.mkdir(mode=0o700)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/user.pub\n"
        f"PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    command = [str(shutil.which("sshd")), "-D", "-e", "-f", str(folder / "config")]
    with (folder / "log").open("w") as log, subprocess.Popen(command, stderr=log) as server:
        try:
            Airflow.until(lambda: is_open("127.0.0.1", port), 20, "the ssh server")
            engine = os.environ.get("DOCKER_HOST", "").removeprefix("unix://")
            yield {
                "DEPLOY_HOST": f"{getpass.getuser()}@127.0.0.1:{port}",
                "DEPLOY_KNOWN_HOSTS": f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text().strip()}",
                "DEPLOY_KEY_BASE64": base64.b64encode((folder / "user").read_bytes()).decode(),
                "DEPLOY_SOCKET": engine or "/var/run/docker.sock",
            }
        finally:
            server.terminate()


def removed(stack: Stack) -> None:
    """down -v leaves nothing."""
    with stack.step("docker compose down -v leaves nothing"):
        stack.compose("down", "--volumes")
        label = f"label=com.docker.compose.project={NAME}"
        for kind in (["ps", "--all"], ["volume", "ls"], ["network", "ls"]):
            left = stack.call("docker", *kind, "--quiet", "--filter", label).stdout
            stack.expect(not left, f"docker {kind[0]}: left behind {left.split()}")
