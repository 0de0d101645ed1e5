"""`make test-compose`: the stack of docker-compose.yaml from nothing, its parts killed, backed up, restored; prints what came of it.

It works on a copy of the project's files, with a project name, a port and secrets of its own: a stack that runs is left alone.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import getpass
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from pathlib import Path

import httpx

from ops.api import ENDED, Airflow
from ops.containers import SECRETS, settings
from tests import models
from tests.e2e import browser
from tests.ports import free_port
from tests.soak import crashes
from tests.soak.crashes import Image, Outcome
from tests.soak.runs import LAST, Runs, count, prepared, started, undisturbed, write_models

PROJECT = Path(__file__).parents[2]
NAME = f"esteira-test-{os.getpid()}"
SIMULATED = ("toll_traffic", "queue_time")
AS_OF, HEALTHY, CHANGED = date(2026, 1, 31), date(2026, 2, 14), date(2026, 3, 1)  # as in `make demo`
REFUSAL = "run make secrets first"
READY_WITHIN = 600  # seconds
# In the middle of what it is killed: one of these tasks of a score, and of a check, the first before the others.
KILLED = {
    "airflow-worker": (("score", "publish"), ("attempt_1.retrain", "attempt_2.retrain")),
    "airflow-scheduler": (("validate", "publish"), ("attempt_2.retrain", "promote")),
    "postgres": (("features", "score"), ("promote", "rescore")),
    "redis": (("extract", "validate"), ("attempt_1.retrain", "attempt_2.retrain")),
    "mlflow": (("score", "publish"), ("attempt_1.retrain", "attempt_2.retrain")),
}


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


def _copy(target: Path) -> None:
    """The project's files as git would give them to somebody else, with what is not committed yet."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    for name in subprocess.run(command, cwd=PROJECT, capture_output=True, check=True).stdout.decode().split("\0")[:-1]:
        if (PROJECT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, target / name)
    subprocess.run(["git", "init", "--quiet", str(target)], check=True)


# ------------------------------------------------------------------------------------------------------------- the steps


def refuses(stack: Stack) -> None:
    """Without .env nothing starts, and the message says what to run."""
    with stack.step("docker compose up without .env: refused") as notes:
        done = stack.compose("up", "--detach", check=False)
        stack.expect(done.returncode != 0, "the stack started without .env")
        stack.expect(REFUSAL in done.stderr, f"the refusal does not say {REFUSAL!r}: {done.stderr[-300:]}")
        notes.append(done.stderr.strip().splitlines()[-1][-90:])
        secrets = dict.fromkeys(SECRETS, "x")
        for name in SECRETS:
            some = {each: value for each, value in secrets.items() if each != name}
            done = stack.call("docker", "compose", "config", "--quiet", check=False, **some)
            stack.expect(done.returncode != 0 and REFUSAL in done.stderr, f"without {name} the stack would start")


def secrets(stack: Stack) -> None:
    """make secrets: 0600, random, ignored by git, and never changed by a second call."""
    with stack.step("make secrets; docker compose config -q"):
        stack.call("make", "secrets")
        env = stack.folder / ".env"
        first = env.read_text()
        stack.call("make", "secrets")
        stack.expect(env.read_text() == first, "make secrets changed what was there")
        stack.expect(stat.S_IMODE(env.stat().st_mode) == 0o600, f".env has mode {stat.S_IMODE(env.stat().st_mode):o}")
        ignored = stack.call("git", "check-ignore", ".env", check=False).returncode == 0
        stack.expect(ignored, "git does not ignore .env")
        values = {name: value for name, value in settings(first).items() if name in SECRETS}
        stack.expect(len(set(values.values())) == len(SECRETS), "secrets are not whole")
        stack.compose("config", "--quiet")


def build(stack: Stack) -> None:
    """make image: not root, no compiler, the lock and nothing else, the official entrypoint."""
    with stack.step("make image") as notes:
        stack.call("make", "image")
        size = stack.call("docker", "image", "inspect", "--format", "{{.Size}}", "esteira:test").stdout
        notes.append(f"{int(size) / 1e9:.1f} GB")
    with stack.step("the image: user, compilers, packages, entrypoint") as notes:
        # The official entrypoint waits for a database first, and says so, unless it is told not to.
        run = ("docker", "run", "--rm", "--network=none", "--env=CONNECTION_CHECK_MAX_COUNT=0", "esteira:test")
        user = stack.call(*run, "bash", "-c", "id -u; id -g; pwd").stdout.split()
        stack.expect(user == ["50000", "0", "/opt/airflow"], f"user, group, folder are {user}")
        found = stack.call(*run, "bash", "-c", "type -P gcc cc g++ c++ clang make ld; true").stdout
        stack.expect(not found.strip(), f"compilers are left in the image: {found}")
        stack.call(*run, "python", "-m", "pip", "check")
        foreign = stack.call(*run, "python", "-c", _AS_LOCKED).stdout
        stack.expect(not foreign.strip(), f"not as in the lock: {foreign}")
        # As the official compose file and chart pass them: a command of Airflow's, `bash -c`, `python`.
        stack.expect("3.3.2" in stack.call(*run, "version").stdout, "`version` is not Airflow's")
        stack.expect("3.3.2" in stack.call(*run, "airflow", "version").stdout, "`airflow version` is not Airflow's")
        stack.expect(stack.call(*run, "bash", "-c", "echo yes").stdout.strip() == "yes", "`bash -c` is not bash")
        same = _of_image("esteira:test") == _of_image(_base(stack.folder / "Dockerfile"))
        stack.expect(same, "the image has another entrypoint than the official image")
        notes.append("50000:0, none, as locked, as the official image's")


_AS_LOCKED = r"""
from importlib.metadata import distributions
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
there = {canonicalize_name(each.name): each.version for each in distributions()}
lines = (line.rstrip(" \\\n") for line in open("/opt/airflow/requirements.txt"))
wanted = [Requirement(line) for line in lines if line and not line.startswith(("#", " "))]  # hashes are indented
wanted = [each for each in wanted if each.marker is None or each.marker.evaluate()]
for each in wanted:
    if there.get(canonicalize_name(each.name), "none") not in each.specifier:
        print(each, "is", there.get(canonicalize_name(each.name)))
surplus = set(there) - {canonicalize_name(each.name) for each in wanted} - {"pip", "esteira"}
if surplus:
    print("surplus:", surplus)
"""


def _base(dockerfile: Path) -> str:
    return str(re.search(r"^FROM (\S+)", dockerfile.read_text(), re.M)[1])  # type: ignore[index]


def _of_image(image: str) -> str:
    command = ["docker", "image", "inspect", "--format", "{{json .Config.Entrypoint}}", image]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def start(stack: Stack, title: str = "docker compose up --wait, fresh volumes") -> None:
    """Start, and wait until all is well."""
    with stack.step(title) as notes:
        stack.compose("up", "--detach", "--wait", "--wait-timeout", str(READY_WITHIN))
        stack.log_in()
        notes.append(f"{len(stack.containers())} containers")


def closed(stack: Stack, before: dict[str, set[int]]) -> None:
    """Only the web port is reachable from this machine, on 127.0.0.1 alone, and it asks who is there."""
    with stack.step("scan of all ports, and who is asked") as notes:
        ids = stack.containers()
        ports = stack.call("docker", "inspect", "--format", "{{json .NetworkSettings.Ports}}", *ids).stdout
        bindings = [each for line in ports.splitlines() for each in json.loads(line).values() if each]
        stack.expect(bindings == [[{"HostIp": "127.0.0.1", "HostPort": str(stack.port)}]], f"published: {bindings}")
        time.sleep(2)
        first, second = scan(), scan()  # what others open for a moment is in one of them only
        new = {address: (first[address] & second[address]) - before[address] for address in first}
        wanted = {address: {stack.port} if address == "127.0.0.1" else set() for address in new}
        stack.expect(new == wanted, f"newly open, should something else on this machine not have opened it: {new}")
        address = f"http://127.0.0.1:{stack.port}"
        stack.expect(httpx.get(f"{address}/api/v2/dags").status_code == 401, "the API answers without a login")
        body = {"username": "admin", "password": "admin"}
        stack.expect(httpx.post(f"{address}/auth/token", json=body).status_code == 401, "admin/admin is let in")
        notes.append(f"2 x 65,535 ports on {len(before)} addresses: only 127.0.0.1:{stack.port}")


def scan() -> dict[str, set[int]]:
    """The open TCP ports of each address of this machine, by connecting to all of them."""
    addresses = {"127.0.0.1"}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # sends nothing: only asks which of our addresses would be used
        addresses.add(probe.getsockname()[0])
    return {address: {port for port in range(1, 65536) if _open(address, port)} for address in sorted(addresses)}


def _open(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        # A port that connects to itself, from the same number, is not open.
        return probe.connect_ex((address, port)) == 0 and probe.getsockname() != probe.getpeername()


def story(stack: Stack) -> None:
    """Train, score and check the simulated models as `make demo` does; one recovers, the other is warned about."""
    stack.airflow.wait_for_dags([f"{model}_check" for model in SIMULATED])
    workers = {each[:12] for each in stack.containers("airflow-worker")}

    def both(title: str, kind: str, **conf: object) -> None:
        with stack.step(f"{kind}: {title}") as notes:
            runs = [stack.start(kind, model, **conf) for model in SIMULATED]
            for run in runs:
                state = stack.ended(run)
                stack.expect(state == "success", f"{run} ended as {state}: {stack.airflow.tasks(*run)}")
            hosts = stack.hosts(*runs)
            worked.update(hosts)
            notes.append(f"on {len(hosts & workers)} workers")

    worked: set[str] = set()
    both(f"both simulated models as of {AS_OF}", "train", day=AS_OF)
    both(f"two weeks, to {HEALTHY}", "score", day=AS_OF + timedelta(days=1), last_day=HEALTHY, check=False)
    both(f"two changed weeks, to {CHANGED}", "score", day=HEALTHY + timedelta(days=1), last_day=CHANGED, check=False)
    both("one recovers, the other is warned about", "check", day=CHANGED)
    stack.expect(worked >= workers and len(workers) == 2, f"not both workers worked: {worked} of {workers}")
    with stack.step("the warning is in the mail catcher") as notes:
        mails = stack.compose("exec", "-T", "mail", "ls", "/mail").stdout.split("\n")
        warnings = [mail for mail in mails if "queue_time" in mail and "out-of-range" in mail and mail.endswith(".eml")]
        stack.expect(len(warnings) == 1, f"not one warning but {mails}")
        notes += warnings
    with stack.step("make first-day, as README says"):
        told = stack.call("make", "first-day", MODEL="toll_traffic", DAY="2026-03-02").stdout
        stack.expect("toll_traffic_score" in told and "prediction" in told, f"make first-day said {told[-500:]}")


def looked_at(stack: Stack) -> None:
    """A person signs in with a browser and sees the check's grid; no secret is in what the services log."""
    chromium = browser.found()
    with stack.step("a person signs in with a browser" if chromium else "no Chromium: nobody signs in") as notes:
        password = settings((stack.folder / ".env").read_text())["AIRFLOW_ADMIN_PASSWORD"]
        if chromium:
            with browser.signed_in(chromium, f"http://localhost:{stack.port}", password) as page:
                page.goto(f"http://localhost:{stack.port}/dags/toll_traffic_check")
                page.get_by_text("commit_notebook").first.wait_for(timeout=30_000)
                picture = PROJECT / ".esteira" / "screenshots" / "compose.png"
                page.screenshot(path=picture)
                stack.expect(page.get_by_role("link", name="MLflow").count() == 0, "a link to an MLflow out of reach")
                notes.append(f"{picture.relative_to(PROJECT)}")
    with stack.step("no secret in the services' logs"):
        logs = stack.compose("logs").stdout
        values = settings((stack.folder / ".env").read_text())
        shown = [name for name in SECRETS if values[name] in logs]
        stack.expect(not shown and len(logs) > 10_000, f"shown in {len(logs)} characters: {shown}")


def kills(stack: Stack, victims: Sequence[str]) -> list[Outcome]:
    """SIGKILL in the middle of a score and of a check, compared with an undisturbed run."""
    names = {victim: f"killed{index}" for index, victim in enumerate(victims)}
    stack.airflow.wait_for_dags([f"{name}_check" for name in ("calm", *names.values())])
    with stack.step(f"{len(names) + 1} models alike: trained, 23 days scored, one undisturbed"):
        prepared(stack, ["calm", *names.values()])
        wanted = {kind: undisturbed(stack, "calm", kind) for kind in ("score", "check")}
    outcomes = []
    for victim, name in names.items():
        for kind, tasks in zip(("score", "check"), KILLED[victim], strict=True):
            outcome = Outcome(f"{victim} killed during a {kind}")
            with stack.step(outcome.fault) as notes:
                run = started(stack, name, kind)
                at, container = _running(stack, victim, run, tasks)
                before = stack.restarts(container)
                stack.kill(container)
                began = time.monotonic()
                state = stack.ended(run)
                notes.append(f"at {at}: {state} {time.monotonic() - began:.0f} s later")
                stack.airflow.until(lambda victim=victim: stack.healthy(victim), 180, f"{victim} to be well again")  # type: ignore[misc]
                stack.expect(stack.restarts(container) == before + 1, f"{outcome.fault}: it was not started again once")
                wrong = "" if state == "success" else f"{state}: {stack.airflow.tasks(*run)}"
                count(outcome, wanted[kind], stack.image(name), wrong)
                stack.wrong += [f"{outcome.fault}: {each}" for each in outcome.examples]
                again = [task for task, tries in stack.tries(*run).items() if tries > 1]
                notes.append(f"ran again: {', '.join(again) or 'none'}; lost {outcome.lost}, doubled {outcome.doubled}")
                if victim == "airflow-worker":
                    stack.expect(at in again, f"{outcome.fault}: {at} had ended before its worker was killed")
            outcomes.append(outcome)
    return outcomes


def _running(stack: Stack, victim: str, run: tuple[str, str], tasks: Sequence[str]) -> tuple[str, str]:
    """Wait until the first of the tasks runs, or one of them after it has; returns which, and the container to kill."""
    ids = stack.containers(victim)
    while True:
        found = stack.airflow.call("GET", f"/dags/{run[0]}/dagRuns/{run[1]}/taskInstances")["task_instances"]
        states = {task["task_id"]: task for task in found}
        wanted = tasks[:1] if states[tasks[0]]["state"] not in ENDED else tasks
        for name in wanted:
            host = states[name]["hostname"]
            if states[name]["state"] == "running" and (victim != "airflow-worker" or host):
                return name, next(each for each in ids if victim != "airflow-worker" or each.startswith(host))
        assert stack.state(run) not in ENDED, f"{run} ended before {victim} was killed at {tasks}"
        time.sleep(0.02)


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
            Airflow.until(lambda: _open("127.0.0.1", port), 20, "the ssh server")
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


def main() -> int:
    """Returns how many things are not as they should be."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--victims", nargs="*", choices=tuple(KILLED), default=tuple(KILLED))
    parser.add_argument("--keep", action="store_true", help="leave the stack up, to look at")
    asked = parser.parse_args()
    if shutil.which("docker") is None or subprocess.run(["docker", "info"], capture_output=True).returncode:
        sys.exit("esteira: this needs Docker with Compose, and an engine that runs: `docker info` fails")
    place = Path(tempfile.mkdtemp(prefix="esteira-compose-"))
    stack = Stack(place)
    _copy(stack.folder)
    write_models(stack.models, ["calm", *(f"killed{index}" for index in range(len(asked.victims)))])
    outcomes: list[Outcome] = []
    began = time.monotonic()
    try:
        before = scan()
        refuses(stack)
        secrets(stack)
        build(stack)
        start(stack)
        closed(stack, before)
        story(stack)
        looked_at(stack)
        outcomes = kills(stack, asked.victims)
        scale(stack)
        saved(stack, place, ["calm", *SIMULATED, *(f"killed{index}" for index in range(len(asked.victims)))])
        deployed(stack, place)
    except Exception as error:
        stack.wrong.append(f"stopped: {type(error).__name__}: {error}")
        print(stack.wrong[-1], file=sys.stderr)
        logs = PROJECT / ".esteira" / "compose.log"
        logs.parent.mkdir(exist_ok=True)
        logs.write_text(stack.compose("logs", "--timestamps", check=False).stdout)
        print(f"the services' logs are in {logs}", file=sys.stderr)
    finally:
        if not asked.keep:
            removed(stack)
    print(f"\n{(time.monotonic() - began) / 60:.0f} minutes\n\n| step | seconds | |\n|---|---|---|")
    for title, seconds, note in stack.rows:
        print(f"| {title} | {seconds:.0f} | {note} |")
    print(f"\n{crashes.table(outcomes)}")
    for wrong in stack.wrong:
        print(f"wrong: {wrong}", file=sys.stderr)
    if not asked.keep:
        shutil.rmtree(place, ignore_errors=True)
    return len(stack.wrong)


if __name__ == "__main__":
    sys.exit(min(main(), 1))
