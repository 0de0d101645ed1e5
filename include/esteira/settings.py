"""What the environment says: every `ESTEIRA_*` variable, read here and nowhere else."""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from esteira.errors import EsteiraError

INCLUDE = Path(__file__).parents[1]
PROJECT = INCLUDE.parent


class Settings(BaseSettings):
    """The variables, without their prefix; one that is empty counts as one that is not set, unless it is said here."""

    model_config = SettingsConfigDict(env_prefix="ESTEIRA_", frozen=True, extra="ignore")

    home: str = ""  # the state of this machine; by default .esteira in the project
    lake: str = ""  # a folder or an s3:// address; by default `lake` under home
    artifacts: str = (
        ""  # what MLflow keeps files in, where its registry is a database file: a folder or an s3:// address
    )
    models: str = ""  # folders, separated as PATH is; by default include/models
    git: str = ""  # where notebooks are committed; by default `notebooks` under home
    git_remote: str = ""
    git_token: SecretStr = SecretStr("")
    git_host: Literal["", "github", "azure"] = ""
    mlflow_url: str | None = None  # where browsers reach MLflow; empty: nowhere
    commit: str = ""  # of the code, where git does not know it, as in an image
    outbox_schedule: str = "*/10 * * * *"
    reconcile_schedule: str = "17 * * * *"
    api_url: str = ""  # Airflow's API as tasks reach it; by default where they tell Airflow how they fare
    api_user: str = "watchdog"  # who may read runs and their tasks
    api_password: SecretStr = SecretStr("")

    @field_validator("lake")
    @classmethod
    def _is_folder_or_bucket(cls, given: str) -> str:
        if "://" in given and not re.match(r"s3://[^/]+", given):
            raise ValueError("it is a folder, or s3://bucket/path")
        return given

    @property
    def state_folder(self) -> Path:
        """Where this machine's state lies."""
        return Path(self.home or PROJECT / ".esteira").absolute()

    @property
    def model_folders(self) -> list[Path]:
        """Where models are looked for."""
        return [Path(folder) for folder in self.models.split(os.pathsep) if folder] or [INCLUDE / "models"]


NAMES = tuple(f"ESTEIRA_{name.upper()}" for name in Settings.model_fields)


def isolate(home: Path, **others: str) -> None:
    """Let the environment say nothing of where things are but that all state lies in `home`: for what must touch nothing else.

    Which models there are, and the code's commit, are kept; `others` are given anew.
    """
    for name in NAMES:
        if name not in ("ESTEIRA_MODELS", "ESTEIRA_COMMIT"):
            os.environ.pop(name, None)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    os.environ |= {"ESTEIRA_HOME": str(home), **others}


def settings() -> Settings:
    """The settings as the environment has them now. Raises EsteiraError that names a variable which can't be used."""
    return _read(tuple(os.environ.get(name) for name in NAMES))


@lru_cache(maxsize=8)  # asked for at each read of a table
def _read(_: tuple[str | None, ...]) -> Settings:
    try:
        return Settings()
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        name = f"ESTEIRA_{str(found['loc'][0]).upper()}"
        raise EsteiraError(f"{name} can't be used: got {found['input']!r}; {found['msg'].lower()}") from None
