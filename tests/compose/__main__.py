"""`make test-compose`: the stack of docker-compose.yaml from nothing, its parts killed, backed up, restored; prints what came of it.

It works on a copy of the project's files, with a project name, a port and secrets of its own: a stack that runs is left alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import httpx

from ops.api import ENDED
from ops.containers import SECRETS, settings
from tests.compose.operations import AS_OF, CHANGED, HEALTHY, SIMULATED, deployed, removed, saved, scale
from tests.compose.stack import PROJECT, READY_WITHIN, REFUSAL, Stack, copy_project, is_open
from tests.e2e import browser
from tests.soak import crashes
from tests.soak.crashes import Outcome
from tests.soak.runs import RANGE, UNCUT, count, prepared, started, undisturbed, write_models

# In the middle of what it is killed: one of these tasks of a score, and of a check, the first before the others.
KILLED = {
    "airflow-worker": (("score", "publish"), ("attempt_1.retrain", "attempt_2.retrain")),
    "airflow-scheduler": (("score", "publish"), ("attempt_2.retrain", "promote")),
    "postgres": (("score", "publish"), ("promote", "rescore")),
    "redis": (("score", "publish"), ("attempt_1.retrain", "attempt_2.retrain")),
    "mlflow": (("score", "publish"), ("attempt_1.retrain", "attempt_2.retrain")),
}

CUT = {f"cut{index}": task for index, task in enumerate(RANGE)}  # sharded models, and where their worker is killed


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
    """make image: not root, the lock and nothing else, a compiler for models' trees, the official entrypoint."""
    with stack.step("make image") as notes:
        stack.call("make", "image")
        size = stack.call("docker", "image", "inspect", "--format", "{{.Size}}", "esteira:test").stdout
        notes.append(f"{int(size) / 1e9:.1f} GB")
    with stack.step("the image: user, compiler, packages, entrypoint") as notes:
        # The official entrypoint waits for a database first, and says so, unless it is told not to.
        run = ("docker", "run", "--rm", "--network=none", "--env=CONNECTION_CHECK_MAX_COUNT=0", "esteira:test")
        user = stack.call(*run, "bash", "-c", "id -u; id -g; pwd").stdout.split()
        stack.expect(user == ["50000", "0", "/opt/airflow"], f"user, group, folder are {user}")
        found = stack.call(*run, "bash", "-c", "type -P gcc; type -P g++ c++ clang make; true").stdout.split()
        stack.expect(found == ["/usr/bin/gcc"], f"compilers in the image: {found}")
        stack.call(*run, "python", "-m", "pip", "check")
        foreign = stack.call(*run, "python", "-c", _AS_LOCKED).stdout
        stack.expect(not foreign.strip(), f"not as in the lock: {foreign}")
        # As the official compose file and chart pass them: a command of Airflow's, `bash -c`, `python`.
        stack.expect("3.3.2" in stack.call(*run, "version").stdout, "`version` is not Airflow's")
        stack.expect("3.3.2" in stack.call(*run, "airflow", "version").stdout, "`airflow version` is not Airflow's")
        stack.expect(stack.call(*run, "bash", "-c", "echo yes").stdout.strip() == "yes", "`bash -c` is not bash")
        same = _of_image("esteira:test") == _of_image(_base(stack.folder / "Dockerfile"))
        stack.expect(same, "the image has another entrypoint than the official image")
        notes.append("50000:0, gcc alone, as locked, as the official image's")


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
    return {address: {port for port in range(1, 65536) if is_open(address, port)} for address in sorted(addresses)}


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
        warnings = [mail for mail in mails if "queue_time" in mail and "did-not-help" in mail and mail.endswith(".eml")]
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


def kills_of_shards(stack: Stack) -> list[Outcome]:
    """A range of two days in shards on both workers, and the worker of a shard, or of a publishing task, killed."""
    stack.airflow.wait_for_dags([f"{name}_check" for name in (UNCUT, *CUT)])
    with stack.step(f"{len(CUT) + 1} models of three shards: trained, a range undisturbed") as notes:
        prepared(stack, [UNCUT, *CUT])
        wanted = undisturbed(stack, UNCUT, "range")
        run = stack.airflow.call("GET", f"/dags/{UNCUT}_score/dagRuns?order_by=-run_after&limit=1")["dag_runs"][0]
        notes.append(f"on {len(stack.hosts((run['dag_id'], run['dag_run_id'])))} workers")
    outcome = Outcome("airflow-worker killed during a range in shards")
    for name, task in CUT.items():
        with stack.step(f"{outcome.fault}, at {task}") as notes:
            run = started(stack, name, "range")
            _, container = _running(stack, "airflow-worker", run, [task])
            stack.kill(container)
            state = stack.ended(run)
            stack.airflow.until(lambda: stack.healthy("airflow-worker"), 180, "the workers to be well again")
            count(
                outcome,
                wanted,
                stack.image(name),
                "" if state == "success" else f"{state}: {stack.airflow.tasks(*run)}",
            )
            again = [task for task, tries in stack.tries(*run).items() if tries > 1]
            notes.append(f"{state}; ran again: {', '.join(again) or 'none'}")
    stack.wrong += [f"{outcome.fault}: {each}" for each in outcome.examples]
    return [outcome]


def _running(stack: Stack, victim: str, run: tuple[str, str], tasks: Sequence[str]) -> tuple[str, str]:
    """Wait until the first of the tasks runs, or one of them after it has; returns which, and the container to kill."""
    ids = stack.containers(victim)
    while True:
        found = stack.airflow.call("GET", f"/dags/{run[0]}/dagRuns/{run[1]}/taskInstances")["task_instances"]
        first = [each for each in found if each["task_id"] == tasks[0]]
        wanted = tasks if first and all(each["state"] in ENDED for each in first) else tasks[:1]
        for each in found:  # of a mapped task each instance by itself
            host = each["hostname"]
            if each["task_id"] in wanted and each["state"] == "running" and (victim != "airflow-worker" or host):
                return each["task_id"], next(id for id in ids if victim != "airflow-worker" or id.startswith(host))
        assert stack.state(run) not in ENDED, f"{run} ended before {victim} was killed at {tasks}"
        time.sleep(0.02)


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
    copy_project(stack.folder)
    names = ["calm", UNCUT, *CUT, *(f"killed{index}" for index in range(len(asked.victims)))]
    write_models(stack.models, names)
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
        outcomes = kills_of_shards(stack) + kills(stack, asked.victims)
        scale(stack)
        saved(stack, place, [*SIMULATED, *names])
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
