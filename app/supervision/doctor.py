"""Checks of `seesae doctor`: what SeeSAE needs, and how to fix what is missing."""

import asyncio
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.filesize import decimal

from app.artifacts import Artifacts, size_of, store_key, weights_missing
from app.errors import UserError
from app.paths import MIGRATIONS, STATIC, TEMPLATES
from app.redaction import redact
from app.settings import Settings, require_backend

if TYPE_CHECKING:
    from app.queries.saes import SaeDetail
    from app.storage.survey import Needs

Level = Literal["ok", "warn", "fail"]

_PACKAGES = ("torch", "transformers", "interp-engine", "datasets", "fastapi", "sqlalchemy", "procrastinate", "plotly")
_DEMO_BYTES = 2_500_000_000
"""Upper bound of what the demo writes: model, activations, index and database."""
_MOST_SHOWN = 5
"""Missing files that are named."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    subject: str
    level: Level
    text: str
    """The state and, unless it is ok, what to do."""


def examine(settings: Settings) -> Iterator[Finding]:
    """Run all checks; yield one finding per subject."""
    for subject, check in _CHECKS.items():
        try:
            level, text = check(settings)
        except UserError as error:
            level, text = "fail", str(error)
        except Exception as error:  # one check must not hide the others
            level, text = "fail", f"This could not be checked: {_first_line(error)}."
        yield Finding(subject, level, redact(text))


def _python(_settings: Settings) -> tuple[Level, str]:
    version = platform.python_version()
    if (3, 11) <= sys.version_info < (3, 14):
        return "ok", f"{version} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return "fail", f"{version} is not 3.11, 3.12 or 3.13. Create the environment again with one of these."


def _packages(_settings: Settings) -> tuple[Level, str]:
    found, missing = [], []
    for name in ("seesae", *_PACKAGES):
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return "fail", f"Not installed: {', '.join(missing)}. Run `make setup`, or `pip install -e .`."
    return "ok", ", ".join(found)


def _files(_settings: Settings) -> tuple[Level, str]:
    missing = [path.name for path in (TEMPLATES, STATIC, MIGRATIONS) if not path.is_dir()]
    if missing:
        return "fail", f"The installation lacks {', '.join(missing)}. Install SeeSAE again."
    return "ok", "templates, static files and migrations are there"


def _torch(settings: Settings) -> tuple[Level, str]:
    try:
        import torch
    except ImportError as error:
        return "fail", f"PyTorch cannot be imported: {error}. Install it again (README, 'A machine without a GPU')."
    from sae_core.devices import resolve_device
    from sae_core.errors import SAEError

    try:
        device = resolve_device(settings.device)
    except SAEError as error:
        return "fail", str(error)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    return "ok", f"{torch.__version__}, computing on {device} ({name})"


def _backend(settings: Settings) -> tuple[Level, str]:
    require_backend(settings)
    if settings.backend == "eager":
        installed = "installed too" if importlib.util.find_spec("vllm") else "not installed, and not needed"
        return "ok", f"eager: the inference process runs models itself; vLLM is {installed}"
    try:
        vllm = importlib.import_module("vllm")
    except Exception as error:  # it loads libraries of the GPU, which fail in many ways
        return "fail", f"vLLM cannot be imported: {_first_line(error)}. Install it again, or set SEESAE_BACKEND=eager."
    import torch

    if not torch.cuda.is_available():
        return "warn", f"vLLM {vllm.__version__}, but PyTorch finds no GPU here. Set SEESAE_BACKEND=eager without one."
    return "ok", f"vLLM {vllm.__version__} on {torch.cuda.get_device_name(0)}"


def _home(settings: Settings) -> tuple[Level, str]:
    in_home = settings.artifacts_folder.is_relative_to(settings.home)
    for folder, variable in (
        (settings.home, "SEESAE_HOME"),
        (settings.artifacts_folder, "SEESAE_HOME" if in_home else "SEESAE_ARTIFACTS"),
    ):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            return "fail", f"{folder} cannot be made ({error.strerror}). Set {variable} to a folder you can write."
        if not os.access(folder, os.W_OK | os.X_OK):
            return "fail", f"{folder} cannot be written. Set {variable} to another folder, or fix its permissions."
    return "ok", f"{settings.home} (artifacts: {size_of(settings.artifacts_folder) / 1e9:.1f} GB)"


def _disk(settings: Settings) -> tuple[Level, str]:
    if not settings.artifacts_folder.is_dir():
        return "warn", f"not checked, because {settings.artifacts_folder} is not there (see Home)."
    free = shutil.disk_usage(settings.artifacts_folder).free
    if free < _DEMO_BYTES:
        return "warn", f"{free / 1e9:.1f} GB free; the demo may need {_DEMO_BYTES / 1e9:.1f} GB. Free some space."
    return "ok", f"{free / 1e9:.1f} GB free"


def _object_store(settings: Settings) -> tuple[Level, str]:
    store = Artifacts.of(settings).store
    if store is None:
        return "ok", "none: the artifacts are in a folder"
    store.check()
    return "ok", f"{store.address} can be read and written; what this machine uses of it is kept under {store.root}"


def _database(settings: Settings) -> tuple[Level, str]:
    from app.schema import is_current
    from app.supervision.embedded_postgres import database

    with database(settings.home, settings.database_url) as url:
        current = is_current(url)
    kind = "embedded Postgres" if settings.database_url is None else "Postgres at SEESAE_DATABASE_URL"
    if current:
        return "ok", f"{kind}, tables up to date"
    return "warn", f"{kind}, tables not up to date. `seesae serve` updates them, or run `seesae db upgrade`."


def _saes(settings: Settings) -> tuple[Level, str]:
    from app.schema import is_current
    from app.supervision.embedded_postgres import database

    try:
        with database(settings.home, settings.database_url) as url:
            saes = asyncio.run(_list_saes(url)) if is_current(url) else []
    except UserError:
        return "warn", "not checked, because there is no database. When it is back, run `seesae doctor` again."
    findings = [finding for sae in saes for finding in _missing_files(settings, sae)]
    if not findings:
        return "ok", f"{len(saes)}, with all their files"
    level: Level = "fail" if any(level == "fail" for level, _ in findings) else "warn"
    shown = [text for _, text in findings[:_MOST_SHOWN]]
    if len(findings) > _MOST_SHOWN:
        shown.append(f"And {len(findings) - _MOST_SHOWN} more.")
    return level, " ".join(shown)


async def _list_saes(database_url: str) -> "list[SaeDetail]":
    from app.db import create_engine, create_sessionmaker
    from app.queries.saes import list_saes

    engine = create_engine(database_url)
    try:
        async with create_sessionmaker(engine)() as session:
            return await list_saes(session)
    finally:
        await engine.dispose()


def _missing_files(settings: Settings, sae: "SaeDetail") -> Iterator[tuple[Level, str]]:
    """Yield what an SAE lacks on disk: its weights, the activations of its index, its model."""
    from sae_core.checkpoints.saelens import holds_sae
    from sae_core.store.activation_store import MANIFEST

    if not sae.has_weights:
        return
    artifacts = Artifacts.of(settings)
    stored = artifacts.store
    folder = artifacts.root / sae.artifact
    if not (holds_sae(folder) if stored is None else stored.size(folder)):
        yield "fail", weights_missing(sae.slug, folder)
    if sae.index is not None:
        store = artifacts.index(store_key(sae, sae.index.sequence_set.sha256))
        if not (_is_whole(store / MANIFEST) if stored is None else MANIFEST in stored.names(store)):
            yield (
                "warn",
                f"The activations of {sae.slug} are not whole under {store}: its pages cannot sample more examples. "
                f"Copy them back, or repeat `seesae index {sae.slug}`.",
            )
    source = Path(sae.model.source)
    if source.is_absolute() and not source.exists():
        yield (
            "warn",
            f"The model of {sae.slug} is not at {source}: it cannot be probed. Copy it back to there.",
        )


def _is_whole(manifest: Path) -> bool:
    """True if a store's manifest can be read and its shards exist. Hashes, which take minutes, are not checked."""
    try:
        shards = json.loads(manifest.read_text(encoding="utf-8"))["shards"]
    except (OSError, ValueError):
        return False
    return all((manifest.parent / shard["file"]).is_file() for shard in shards)


def _room(settings: Settings) -> tuple[Level, str]:
    """Say what takes room, and what `seesae gc` would free."""
    from app.schema import is_current
    from app.storage.survey import CATEGORIES, survey
    from app.supervision.embedded_postgres import database

    try:
        with database(settings.home, settings.database_url) as url:
            if not is_current(url):
                return "warn", "not checked, because the tables are not up to date. Run `seesae db upgrade`."
            database_size, needs = asyncio.run(_needs(url))
    except UserError:
        return "warn", "not checked, because there is no database. When it is back, run `seesae doctor` again."
    sizes, garbage = {"database": database_size}, 0
    for item in survey(Artifacts.of(settings), needs):
        name = CATEGORIES[item.category]
        sizes[name] = sizes.get(name, 0) + item.size
        garbage += 0 if item.needed else item.size
    sizes["downloads"] = size_of(settings.home / "cache")
    parts = [f"{name} {decimal(size)}" for name, size in sorted(sizes.items(), key=lambda part: -part[1]) if size]
    free = f"`seesae gc` would free {decimal(garbage)}" if garbage else "`seesae gc` would free nothing"
    return "ok", f"{', '.join(parts)}; {free}"


async def _needs(database_url: str) -> "tuple[int, Needs]":
    """Return the bytes of the database, and what it needs on disk."""
    from app.db import create_engine, create_sessionmaker
    from app.queries.deletions import database_bytes
    from app.storage.survey import read_needs

    engine = create_engine(database_url)
    try:
        sessions = create_sessionmaker(engine)
        needs = await read_needs(sessions)
        async with sessions() as session:
            return await database_bytes(session), needs
    finally:
        await engine.dispose()


def _supervisor(settings: Settings) -> tuple[Level, str]:
    import psutil

    from app.supervision.instance_lock import read_lock_info

    holder = read_lock_info(settings.home)
    if holder is None or not psutil.pid_exists(holder.pid):
        return "ok", "not running; `seesae serve` or `seesae demo` starts it"
    return "ok", f"running at {holder.url} (process {holder.pid})"


def _demo(settings: Settings) -> tuple[Level, str]:
    cache = settings.home / "cache"
    fetched = [path.name for path in cache.glob("*.whl")] if cache.is_dir() else []
    if fetched:
        return "ok", f"fetched: {', '.join(sorted(fetched))}"
    if importlib.util.find_spec("pip") is None:
        return "warn", f"not fetched yet, and this Python has no pip to do it. Run `{sys.executable} -m ensurepip`."
    return "ok", "not fetched yet; `seesae demo` does it (98 MB)"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")


_CHECKS: dict[str, Callable[[Settings], tuple[Level, str]]] = {
    "Python": _python,
    "Packages": _packages,
    "Files": _files,
    "PyTorch": _torch,
    "Back end": _backend,
    "Home": _home,
    "Disk": _disk,
    "Object store": _object_store,
    "Database": _database,
    "SAEs": _saes,
    "Room": _room,
    "Site": _supervisor,
    "Demo data": _demo,
}
