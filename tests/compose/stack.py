"""The stack of docker-compose.yaml in a copy of the project, with a project name, a port and secrets of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from ops.api import Airflow
from ops.containers import settings
from tests.ports import free_port
from tests.soak.crashes import Image
from tests.soak.runs import Runs

PROJECT = Path(__file__).parents[2]
NAME = f"esteira-test-{os.getpid()}"
REFUSAL = "run make secrets first"
READY_WITHIN = 600  # seconds


class Stack(Runs):
    """The stack, in a copy of the project."""

    def __init__(self, place: Path) -> None:
        self.folder = place / "esteira"
        self.models = place / "models"
        self.port = free_port()
        self.rows: list[tuple[str, float, str]] = []
        self.wrong: list[str] = []
        keep = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "ESTEIRA_"))}
        self.environment = {
            **keep,
            "COMPOSE_PROJECT_NAME": NAME,
            "COMPOSE_FILE": "docker-compose.yaml:tests/compose/override.yaml",
            "COMPOSE_PROFILES": "dev",
            "ESTEIRA_IMAGE": "esteira:test",
            "ESTEIRA_WEB_PORT": str(self.port),
            "ESTEIRA_TEST_MODELS": str(self.models),
        }

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[list[str]]:
        """Time a step; what is put into the list is shown beside it. What is raised in it is noted, and raised on."""
        notes: list[str] = []
        wrong = len(self.wrong)
        began = time.monotonic()
        print(f"{title} …", flush=True)
        try:
            yield notes
        except Exception:
            self.wrong.append(f"{title}: it could not be ended")
            raise
        finally:
            seconds = time.monotonic() - began
            self.rows.append((title, seconds, "; ".join(notes) + (" – WRONG" if len(self.wrong) > wrong else "")))
            print(f"    {seconds:.0f} s {'; '.join(notes)}", flush=True)

    def expect(self, held: bool, otherwise: str) -> None:
        """Note what should be so and is not."""
        if not held:
            self.wrong.append(otherwise)
            print(f"    wrong: {otherwise}", flush=True)

    def call(self, *command: str, check: bool = True, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the copy. Raises with its last words where it fails."""
        done = subprocess.run(
            command, cwd=self.folder, env={**self.environment, **more}, capture_output=True, text=True, check=False
        )
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
        return done

    def compose(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Call docker compose."""
        return self.call("docker", "compose", *arguments, check=check)

    def containers(self, *service: str, every: bool = False) -> list[str]:
        """The ids of the containers of a service, or of all."""
        return self.compose("ps", "--quiet", *(["--all"] if every else []), *service).stdout.split()

    def log_in(self) -> None:
        """Talk to Airflow as the user of .env."""
        password = settings((self.folder / ".env").read_text())["AIRFLOW_ADMIN_PASSWORD"]
        self.airflow = Airflow(f"http://127.0.0.1:{self.port}", "admin", password)

    def image(self, name: str) -> Image:
        """What the container `observer` sees."""
        return self.images([name])[name]

    def images(self, names: Sequence[str]) -> dict[str, Image]:
        """The same for several."""
        command = ["exec", "-T", "observer", "python", "-W", "ignore", "-m", "tests.compose.image"]
        seen = json.loads(self.compose(*command, *names).stdout)
        return {name: {part: Counter(rows) for part, rows in image.items()} for name, image in seen.items()}

    def hosts(self, *runs: tuple[str, str]) -> set[str]:
        """The names of the hosts that worked on runs."""
        found = set()
        for dag, run in runs:
            tasks = self.airflow.call("GET", f"/dags/{dag}/dagRuns/{run}/taskInstances")["task_instances"]
            found |= {task["hostname"] for task in tasks if task["hostname"]}
        return found

    def tries(self, dag: str, run: str) -> dict[str, int]:
        """How often each task of a run was tried."""
        tasks = self.airflow.call("GET", f"/dags/{dag}/dagRuns/{run}/taskInstances")["task_instances"]
        return {task["task_id"]: task["try_number"] for task in tasks}

    def healthy(self, service: str) -> bool:
        """Whether every container of a service says that it is well."""
        ids = self.containers(service, every=True)
        state = self.call("docker", "inspect", "--format", "{{.State.Status}} {{.State.Health.Status}}", *ids).stdout
        return set(state.split("\n")[:-1]) == {"running healthy"}

    def kill(self, container: str) -> None:
        """SIGKILL the first process of a container from outside: unlike `docker kill`, the restart policy applies."""
        pid = self.call("docker", "inspect", "--format", "{{.State.Pid}}", container).stdout.strip()
        groups = Path(f"/proc/{pid}/cgroup")
        if os.geteuid() == 0 and groups.exists() and container in groups.read_text():  # else the engine is elsewhere
            os.kill(int(pid), 9)
            return
        helper = ["docker", "run", "--rm", "--pid=host", "--user=0", "--entrypoint=bash", "esteira:test"]
        self.call(*helper, "-c", f"kill -9 {pid}")

    def restarts(self, container: str) -> int:
        """How often the engine started a container again."""
        return int(self.call("docker", "inspect", "--format", "{{.RestartCount}}", container).stdout)


def copy_project(target: Path) -> None:
    """The project's files as git would give them to somebody else, with what is not committed yet."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    for name in subprocess.run(command, cwd=PROJECT, capture_output=True, check=True).stdout.decode().split("\0")[:-1]:
        if (PROJECT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, target / name)
    subprocess.run(["git", "init", "--quiet", str(target)], check=True)


def is_open(address: str, port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        # A port that connects to itself, from the same number, is not open.
        return probe.connect_ex((address, port)) == 0 and probe.getsockname() != probe.getpeername()
