"""All settings, each an environment variable `SEESAE_<NAME>`."""

import getpass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import platformdirs
from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.errors import UserError

PREFIX = "SEESAE_"


def _user() -> str:
    """The OS user's name; a container may run under a number that has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "me"


class Settings(BaseSettings):
    """What can be set, with its default. docs/settings.md lists these fields; a test holds the two together."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True, env_ignore_empty=True)

    home: Path = Field(
        default_factory=lambda: platformdirs.user_data_path("seesae"),
        description="Folder of everything SeeSAE keeps: the embedded database, artifacts and caches.",
    )
    database_url: str | None = Field(
        default=None,
        description="A Postgres 15 or newer, as postgresql://user:password@host/database. "
        "Without it, an embedded Postgres keeps its data under the home folder.",
    )
    artifacts: Path = Field(
        default=None,  # type: ignore[assignment]  # set by _artifacts_under_home
        description="Folder of weights and activation stores; by default, artifacts under the home folder.",
    )
    host: str = Field(default="127.0.0.1", description="Address that the site listens on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port that the site listens on.")
    inference_url: str | None = Field(
        default=None, description="Where the inference process answers; set by seesae serve for its own."
    )
    inference_secret: SecretStr | None = Field(
        default=None,
        description="Secret that the site shows to the inference process; set by seesae serve for its own.",
    )
    device: str = Field(default="auto", description="Where torch computes: auto, cpu, cuda, cuda:1 or mps.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least level to log.")
    probe_max_tokens: int = Field(default=1024, ge=1, description="Longest prompt of a probe, in tokens.")
    author: str = Field(
        default_factory=_user,
        min_length=1,
        max_length=80,
        description="Who labels and starts runs while there are no accounts; by default, the operating system's user.",
    )
    statement_timeout: float = Field(
        default=30.0, gt=0, description="Longest time that a page's or an answer's database query may take, in seconds."
    )

    @model_validator(mode="before")
    @classmethod
    def _artifacts_under_home(cls, values: dict[str, object]) -> dict[str, object]:
        return values


def load_settings() -> Settings:
    """Settings from the environment.

    Raises:
        UserError: a value that cannot be used; the message names its variable.
    """
    try:
        return Settings()
    except ValidationError as error:
        raise UserError(str(error)) from None


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """Settings from the environment, read once a process."""
    return load_settings()
