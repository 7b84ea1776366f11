"""Settings, each an environment variable `SEESAE_<NAME>`."""

import getpass
import hashlib
import importlib.util
import ipaddress
import re
import socket
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

import platformdirs
from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.errors import UserError

PREFIX = "SEESAE_"

_PROTOCOL = r"([a-z][a-z0-9+.-]+):/{1,2}"
_NOT_SHARED = {"file", "local", "memory", "http", "https", "ftp", "data"}
"""Protocols of fsspec that machines do not share files by, or cannot write to."""


def _os_user() -> str:
    """Return the user's name; a container may run under an id that has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "me"


def _artifacts_in_home(values: dict[str, Any]) -> Path:
    """Return the default of `artifacts`; if the home is invalid, pydantic reports the home."""
    return Path(values.get("home", "")) / "artifacts"


def is_loopback(host: str) -> bool:
    """True if a server bound to `host` is reachable from this machine only."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class Settings(BaseSettings):
    """All settings with their defaults. The docs list these fields; a test compares the two."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True, env_ignore_empty=True)

    home: Path = Field(
        default_factory=lambda: platformdirs.user_data_path("seesae"),
        description="Folder for everything that SeeSAE keeps: the embedded database, artifacts and caches.",
    )
    database_url: str | None = Field(
        default=None,
        repr=False,  # it may hold a password, as may the next address
        description="Address of a Postgres 15 or newer, as postgresql://user:password@host/database. "
        "Without it, an embedded Postgres keeps its data under the home folder.",
    )
    artifacts: Path | str = Field(
        default_factory=_artifacts_in_home,
        description="Folder for weights and activation stores, or the address of an object store that machines share, "
        "such as s3://bucket/seesae; by default, artifacts under the home folder.",
    )
    cache_limit: float | None = Field(
        default=None,
        gt=0,
        description="Most room that activation caches may take, in GB: before a run makes new ones, those that were "
        "used least recently are removed. By default there is no limit.",
    )
    host: str = Field(default="127.0.0.1", description="Address that the site listens on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port that the site listens on; 0 takes a free one.")
    web_processes: int | None = Field(
        default=None,
        ge=1,
        le=64,
        description="Web processes that seesae serve runs, which share its port; by default one per core, and at most "
        "four.",
    )
    inference_url: str | None = Field(
        default=None, repr=False, description="Address of the inference process; seesae serve sets it for its own."
    )
    inference_secret: SecretStr | None = Field(
        default=None,
        description="Secret that the site and the inference process share; seesae serve generates its own.",
    )
    device: str = Field(
        default="auto",
        description="Device that torch computes on: auto, cpu, cuda, cuda:1 or mps.",
    )
    machine: str = Field(
        default_factory=socket.gethostname,
        min_length=1,
        description="Name of this machine; by default, its host name. One process of a machine works on a run, because "
        "it uses the whole machine: give workers that have a GPU each names of their own.",
    )
    backend: Literal["eager", "vllm"] = Field(
        default="eager",
        description="What runs models for the inference process: eager, which is PyTorch in that process, or vllm, "
        "which needs the package vllm and a part of a GPU for itself (docs/deploy.md says what it cannot do).",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Lowest level to log.")
    probe_max_tokens: int = Field(default=1024, ge=1, description="Longest prompt of a probe, in tokens.")
    inference_memory: float | None = Field(
        default=None,
        gt=0,
        description="Most memory that models, SAEs and probes may use in the inference process, in GB; by default four "
        "fifths of what is free at its start.",
    )
    author: str = Field(
        default_factory=_os_user,
        min_length=1,
        max_length=80,
        description="Author of labels and runs while there are no accounts; by default, the operating system's user.",
    )
    base_url: str | None = Field(
        default=None,
        description="Address at which browsers reach the site through a proxy, such as https://seesae.example.org: a "
        "name of its own, without a path. The site then answers to this name, and cookies need https where it has it.",
    )
    trusted_proxies: str = Field(
        default="127.0.0.1,::1",
        description="Addresses or networks of the proxies whose X-Forwarded-For is believed, with commas between them; "
        "of use with SEESAE_BASE_URL alone.",
    )
    webhooks_to_private: bool = Field(
        default=False,
        description="Whether webhooks may be sent to private addresses, those of this machine and of its network.",
    )
    anyone_may_write: bool = Field(
        default=False,
        description="Whether a site that others can reach may run without accounts: anyone who reaches it can then "
        "label, and change what others made. Of no use once there is an account.",
    )
    anyone_may_read: bool = Field(
        default=False,
        description="Whether people who have not signed in may read everything, on a site with accounts.",
    )
    writes_per_minute: int = Field(
        default=600,
        ge=1,
        le=1_000_000,
        description="Most changes that one account, or one address of a site that anyone may write to, can make per "
        "minute.",
    )
    oidc_issuer: str | None = Field(
        default=None,
        description="Address of an OpenID Connect provider with which people sign in, such as "
        "https://accounts.example.org. SEESAE_OIDC_CLIENT_ID belongs to it.",
    )
    oidc_client_id: str | None = Field(default=None, description="Name by which the provider knows this site.")
    oidc_client_secret: SecretStr | None = Field(
        default=None, description="Secret that the provider gave this site; unset for a public client."
    )
    oidc_role: Literal["viewer", "labeller", "reviewer"] | None = Field(
        default=None,
        description="Role of the account that a person's first sign-in with the provider makes: viewer, labeller or "
        "reviewer. By default none is made, and only people with an account get in.",
    )
    submit_runs: bool | None = Field(
        default=None,
        description="Whether visitors of the site and of its API may start, cancel and retry runs, which read files of "
        "this machine. By default, only if the site listens on this machine alone.",
    )
    statement_timeout: float = Field(
        default=30.0,
        gt=0,
        le=3600,
        description="Longest time that one query of a page or an API response may take, in seconds.",
    )

    llm_url: str | None = Field(
        default=None,
        repr=False,  # it may hold a password
        description="Base address of any OpenAI-compatible endpoint that suggests labels, such as "
        "http://127.0.0.1:11434/v1. Without it, suggestions are sentences from statistics.",
    )
    llm_api_key: SecretStr | None = Field(
        default=None, description="API key of that endpoint, sent as a bearer token; never shown or logged."
    )
    llm_model: str | None = Field(
        default=None, min_length=1, max_length=200, description="Name of the model at that endpoint."
    )
    llm_concurrency: int = Field(
        default=4, ge=1, le=64, description="Requests that one run has under way at that endpoint at a time."
    )
    llm_timeout: float = Field(
        default=60.0, gt=0, le=3600, description="Longest time to wait for one answer of that endpoint, in seconds."
    )
    llm_price_in: float | None = Field(
        default=None,
        ge=0,
        description="Price of a million tokens that the endpoint reads, in US dollars, for estimates.",
    )
    llm_price_out: float | None = Field(
        default=None, ge=0, description="Price of a million tokens that the endpoint writes, in US dollars."
    )

    @field_validator("home")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        """Make the path absolute, because child processes may run in another folder."""
        if re.match(_PROTOCOL, str(path)):
            raise ValueError("Give a folder of this machine, not an address")
        try:
            return path.expanduser().absolute()
        except RuntimeError:
            raise ValueError("There is no user of that name, whose home folder ~ would be") from None

    @field_validator("artifacts")
    @classmethod
    def _folder_or_address(cls, given: Path | str) -> Path | str:
        """Return an absolute folder, or the address of an object store without a slash at its end."""
        address = str(given)
        found = re.match(_PROTOCOL, address)
        if not found:
            return cls._absolute(Path(given))
        bucket, *folders = address[found.end() :].rstrip("/").split("/")
        if found[1] in _NOT_SHARED or not found[0].endswith("//"):
            raise ValueError("Give a folder, or the address of an object store such as s3://bucket/seesae")
        if not re.fullmatch(r"[\w.-]+", bucket) or not all(re.fullmatch(r"[\w.=-]+", name) for name in folders):
            raise ValueError(
                "Give the address of an object store as s3://bucket/folder: letters, digits and . _ - alone, and keys "
                "where its package looks for them (docs/deploy.md)"
            )
        if {".", ".."} & {bucket, *folders}:
            raise ValueError("Give the address of an object store without . and .. in it")
        return address.rstrip("/")

    @field_validator("base_url", "oidc_issuer")
    @classmethod
    def _web_address(cls, address: str | None, info: ValidationInfo) -> str | None:
        if address is None:
            return None
        try:
            parts = urlsplit(address)
            valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            valid = False
        if not valid or parts.username or parts.query or parts.fragment:
            raise ValueError("Use an address such as https://seesae.example.org")
        if info.field_name == "base_url" and parts.path.strip("/"):
            raise ValueError("Give SeeSAE a host name of its own: it cannot live below a path")
        if info.field_name == "oidc_issuer" and parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            raise ValueError("Use https:// for the provider: what it says about people must not be changed on the way")
        if info.field_name == "oidc_issuer":
            return address  # compared with what the provider says, to the letter
        return f"{parts.scheme}://{parts.netloc.lower()}"

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, proxies: str) -> str:
        for proxy in proxies.split(","):
            try:
                ipaddress.ip_network(proxy.strip())
            except ValueError:
                raise ValueError("Use addresses or networks such as 127.0.0.1,10.0.0.0/8") from None
        return proxies

    @field_validator("device")
    @classmethod
    def _of_torch(cls, device: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device):
            raise ValueError("Use auto, cpu, cuda, cuda:1 or mps")
        return device

    @field_validator("llm_url")
    @classmethod
    def _of_http(cls, url: str | None) -> str | None:
        try:
            parsed = urlsplit(url or "http://none")
            valid = parsed.scheme in ("http", "https") and bool(parsed.hostname) and (parsed.port or 1) > 0
        except ValueError:  # the port or the host
            valid = False
        if not valid:
            raise ValueError("Give an address that starts with http:// or https://")
        return url

    @field_validator("inference_secret", "llm_api_key")
    @classmethod
    def _fits_a_header(cls, secret: SecretStr | None) -> SecretStr | None:
        """Refuse what no HTTP header can hold, whose error would quote it."""
        value = secret.get_secret_value() if secret else ""
        if not (value.isascii() and value.isprintable() and value == value.strip()):
            raise ValueError("Use letters, digits and signs of ASCII alone")
        return secret

    @model_validator(mode="after")
    def _whole_provider(self) -> Self:
        """Refuse a sign-in provider that is set by half, which would be off without a word."""
        if (self.oidc_issuer is None) != (self.oidc_client_id is None):
            raise ValueError(
                "SEESAE_OIDC_ISSUER and SEESAE_OIDC_CLIENT_ID belong together, and only one of them is set"
            )
        if self.oidc_issuer is None and (self.oidc_client_secret is not None or self.oidc_role is not None):
            raise ValueError(
                "SEESAE_OIDC_CLIENT_SECRET and SEESAE_OIDC_ROLE are of use only with SEESAE_OIDC_ISSUER and "
                "SEESAE_OIDC_CLIENT_ID, which are not set"
            )
        return self

    @property
    def object_store(self) -> str | None:
        """Address of the object store that machines share; None where the artifacts are a folder."""
        return self.artifacts if isinstance(self.artifacts, str) else None

    @property
    def artifacts_folder(self) -> Path:
        """Folder of the artifacts; of an object store, what this machine has of them. Each store has its own."""
        if isinstance(self.artifacts, Path):
            return self.artifacts
        return self.home / f"artifacts-{hashlib.sha256(self.artifacts.encode()).hexdigest()[:12]}"

    @property
    def is_shared(self) -> bool:
        """True if others than the people at this machine can reach the site."""
        named = urlsplit(self.base_url).hostname if self.base_url else None
        return not is_loopback(self.host) or (named is not None and not is_loopback(named))

    @property
    def is_https(self) -> bool:
        """True if browsers reach the site by https."""
        return (self.base_url or "").startswith("https://")

    @field_validator("log_level", mode="before")
    @classmethod
    def _lower_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value


def require_backend(settings: Settings) -> None:
    """Refuse a back end that is not installed.

    Raises:
        UserError: it is not.
    """
    if settings.backend == "vllm" and importlib.util.find_spec("vllm") is None:
        raise UserError(
            "SEESAE_BACKEND=vllm needs the package vllm, which is not installed here. Install it in this environment "
            "(pip install 'interp-engine[vllm]', on Linux with an NVIDIA GPU), or set SEESAE_BACKEND=eager."
        )


def message_of(error: Mapping[str, Any]) -> str:
    """Return what is wrong, of one of pydantic's errors."""
    return str(error["msg"]).removeprefix("Value error, ")


def load_settings() -> Settings:
    """Read the settings from the environment.

    Raises:
        UserError: a value is invalid; the message names the variable but not the value, which may be secret.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = PREFIX + "_".join(str(part) for part in first["loc"]).upper()
        said = f"{name} cannot be used: {message_of(first)}" if first["loc"] else message_of(first)
        raise UserError(f"{said}. Set it right, or leave it unset.") from None


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """Return the settings from the environment, read once per process."""
    return load_settings()
