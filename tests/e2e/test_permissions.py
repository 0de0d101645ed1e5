"""Who may see what of the plugin's pages, by an auth manager that tells DAGs apart: an API server of its own with FAB's users and roles."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest

from ops import serving
from tests import models

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.timeout(300)]

FAB = "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"
OWN = [f"DAG:sales_{kind}" for kind in ("train", "score", "check")]
# What each may do: ana may edit her model, leo may look at it, and nobody may do nothing.
ROLES = {
    "ana": [("can_read", "can_edit", *OWN)],
    "leo": [("can_read", *OWN)],
    "nobody": [],
}
PATHS = {
    "models/{model}_check": 200,
    "models/{model}_score?weeks=520": 200,
    "models/{model}_check/checks/2026-02-01": 422,  # it has no champion yet, and the answer says so
    "models/{model}_check/rows?day=2026-02-01": 200,
    "models/{model}_check/row?day=2026-02-01&key=site%3DA": 422,
    "models/{model}_check/runs/none": 404,
}


@dataclass(frozen=True)
class Server:
    web: str
    password: str

    def get(self, path: str, user: str | None) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self._token(user)}"} if user else {}
        return httpx.get(f"{self.web}/esteira/{path}", headers=headers, timeout=60)

    def _token(self, user: str) -> str:
        answer = httpx.post(f"{self.web}/auth/token", json={"username": user, "password": self.password}, timeout=60)
        token: str = answer.json()["access_token"]
        return token


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    place, password = tmp_path_factory.mktemp("fab"), secrets.token_urlsafe(16)
    for name in ("sales", "secret"):
        models.write(place / "models", name)
    environment = {**serving.settings(place, place / "models"), "AIRFLOW__CORE__AUTH_MANAGER": FAB}
    serving.prepare(environment)
    code = "import json, sys\nfrom airflow.__main__ import main\nfor each in json.load(sys.stdin):\n    sys.argv = ['airflow', *each]\n    main()\n"
    given = json.dumps(list(_commands(password)))
    subprocess.run(
        [sys.executable, "-c", code], input=given, env=environment, check=True, text=True, capture_output=True
    )
    with serving.serving(environment, place / "server.log") as (web, _):
        yield Server(web, password)


def _commands(password: str) -> Iterator[list[str]]:
    yield ["roles", "create", *ROLES, "admins"]
    for role, allowed in ROLES.items():
        for each in allowed:
            actions = [name for name in each if name.startswith("can_")]
            yield ["roles", "add-perms", role, "--action", *actions, "--resource", *each[len(actions) :]]
    for user in (*ROLES, "admin"):
        role = "Admin" if user == "admin" else user
        about = ["--firstname", user, "--lastname", user, "--email", f"{user}@localhost"]
        yield ["users", "create", "--username", user, "--role", role, "--password", password, *about]


def test_who_is_not_signed_in_gets_the_pages_modules_and_nothing_else(server: Server) -> None:
    for path in ("models", *(each.format(model="sales") for each in PATHS), "models/sales_check/rollback"):
        assert server.get(path, None).status_code == 401, path
    module = server.get("static/esteira.js", None)
    assert module.status_code == 200
    assert module.headers["content-type"].startswith("text/javascript")
    for path in ("static/..%2fapp.py", "static/none.js", "openapi.json", "docs"):
        assert server.get(path, None).status_code == 404, path


@pytest.mark.parametrize("user", ["ana", "leo"])
def test_a_user_sees_the_models_whose_dags_that_user_may_read(server: Server, user: str) -> None:
    assert [each["model"] for each in server.get("models", user).json()] == ["sales"]
    card = server.get("models?worst=5", user).json()
    assert [each["model"] for each in card["worst"]] == ["sales"]
    assert card["counts"] == {"not measured yet": 1}
    may = server.get("models/sales_check", user).json()["may"]
    assert may == {"check": False, "score": False, "rollback": False}, "to edit a DAG is not to start runs of it"
    for path, status in PATHS.items():
        assert server.get(path.format(model="sales"), user).status_code == status, path
        assert server.get(path.format(model="secret"), user).status_code == 403, path


def test_who_may_read_no_dag_sees_no_model(server: Server) -> None:
    assert server.get("models", "nobody").json() == []
    assert server.get("models/sales_check", "nobody").status_code == 403


def test_only_who_may_edit_a_models_dags_is_shown_what_a_roll_back_would_do(server: Server) -> None:
    assert server.get("models/sales_check/rollback", "leo").status_code == 403
    assert server.get("models/secret_check/rollback", "ana").status_code == 403
    found = server.get("models/sales_check/rollback", "ana")
    assert found.status_code == 422
    assert "has no champion yet" in found.json()["detail"]


def test_an_administrator_sees_every_model_and_no_other_dag_is_one(server: Server) -> None:
    assert {each["model"] for each in server.get("models", "admin").json()} == {"sales", "secret"}
    assert server.get("models/esteira_outbox", "admin").status_code == 404
    assert server.get("models/none_check", "admin").status_code == 404


def test_every_answer_has_a_policy_that_lets_nothing_in_from_elsewhere(server: Server) -> None:
    for path in ("models", "models/sales_check", "static/esteira.js", "models/secret_check"):
        found = server.get(path, "ana")
        assert "default-src 'none'" in found.headers["content-security-policy"], path
        assert found.headers["x-content-type-options"] == "nosniff"
