"""Files on disk by category, and why each is or is not needed.

Unneeded is only what SeeSAE makes again, or what a deletion left. Everything whose origin is not certain stays: a file
that somebody put there, and weights that this database does not know, which may be those of another database.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.artifacts import PRODUCTS, Artifacts, size_of, store_key
from app.queries import deletions
from app.queries.models import NO_WEIGHTS
from app.queries.saes import list_saes
from app.queries.text_readings import all_readings

CATEGORIES = {
    "models": "converted models",
    "sequences": "packed text",
    "activations": "activation caches",
    "training": "checkpoints of training",
    "saes": "SAEs",
    "indexes": "activation stores",
    "effects": "measured effects",
    "readings": "readings of text sets",
    "audits": "audits under way",
    "probing": "probing under way",
    "leftovers": "half-written files",
    "other": "other files",
}
"""Names of the categories, by key."""

_KEY = re.compile(r"[0-9a-f]{20}")
_MODEL = re.compile(r".+-([0-9a-f]{16})")
_PARTIAL = re.compile(r"\.(.+)~[^~]*\.partial")
_IMPORT = re.compile(r"\.import-(\d+)-.+")
_OWN = {"locks", "tensorboard"}
"""Folders beside the products: locks, and curves that people asked for."""


@dataclass(frozen=True, slots=True)
class Item:
    """A file or folder."""

    path: Path
    category: str
    size: int
    needed: bool
    reason: str
    """Why it is needed, or why not."""
    known: bool = True
    """False for what SeeSAE did not make, or does not know any more: it is left alone."""

    @property
    def owner(self) -> Path:
        """The folder whose lock guards it."""
        found = _PARTIAL.fullmatch(self.path.name)
        return self.path.with_name(found[1]) if found else self.path


@dataclass(frozen=True, slots=True)
class Needs:
    """Folders that rows of the database need, named as in "activations/1f3a"."""

    folders: Mapping[str, str]
    """Folders that are needed, with the reason."""
    models: frozenset[str]
    """Beginnings of the hashes of registered models."""
    deleted: frozenset[str]
    """Folders that deletions left."""
    unfinished: Mapping[str, int]
    """Folders of runs that did not end well, with the run."""
    active: frozenset[int]
    """Runs under way."""


async def read_needs(sessions: async_sessionmaker[AsyncSession]) -> Needs:
    """Read what is needed from the database."""
    async with sessions() as session:
        saes = await list_saes(session)
        used = await deletions.uses_of_active_runs(session)
        models = await deletions.list_models(session)
        folders = {subject: f"run {run} uses it" for subject, run in used.items()}
        for reading in await all_readings(session):
            folders[f"readings/{reading.key}"] = f"{reading.sae}'s activations on the texts of {reading.set_name}"
        for sae in saes:
            if sae.has_weights:
                folders[sae.artifact] = f"the weights of {sae.slug}"
                if sae.index is not None:
                    store = f"indexes/{store_key(sae, sae.index.sequence_set.sha256)}"
                    folders[store] = f"pages of {sae.slug} draw further examples from it"
        return Needs(
            folders=folders,
            models=frozenset(model.weights_sha256[:16] for model in models if model.weights_sha256 != NO_WEIGHTS),
            deleted=frozenset(await deletions.left_folders(session)),
            unfinished=await deletions.unfinished_uses(session),
            active=frozenset(await deletions.active_run_ids(session)),
        )


def survey(artifacts: Artifacts, needs: Needs) -> Iterator[Item]:
    """Yield everything under SEESAE_ARTIFACTS but its locks, in order of names.

    Of an object store that is what it has, and what else this machine keeps.
    """
    stored = {} if artifacts.store is None else artifacts.store.products()
    stored_paths = {path: size for name, size in stored.items() if (path := artifacts.folder(name)) is not None}
    here = set(artifacts.root.iterdir()) if artifacts.root.is_dir() else set()
    for path in sorted(here | {path.parent for path in stored_paths}):
        if path.name in PRODUCTS and not path.is_symlink() and (path.is_dir() or path not in here):
            inside = set(path.iterdir()) if path in here else set()
            for inner in sorted(inside | {other for other in stored_paths if other.parent == path}):
                yield assess(inner, needs, stored_paths.get(inner))
        elif path.name in _OWN and path.is_dir():
            if path.name != "locks":
                yield Item(path, "other", size_of(path), needed=True, reason="curves for TensorBoard")
        elif (found := _IMPORT.fullmatch(path.name)) and path.is_dir() and not path.is_symlink():
            run = int(found[1])
            reason = f"run {run} uses it" if run in needs.active else f"left by the import of run {run}, which ended"
            yield Item(path, "leftovers", size_of(path), needed=run in needs.active, reason=reason)
        else:
            yield _unknown(path)


def assess(path: Path, needs: Needs, stored: int | None = None) -> Item:
    """Return what is known of a path in a folder of products; `stored` are its bytes in an object store."""
    category = path.parent.name
    if path.is_symlink() or not (path.is_dir() or (stored is not None and not path.exists())):
        return _unknown(path)
    if _PARTIAL.fullmatch(path.name):
        return Item(path, "leftovers", size_of(path), needed=False, reason="left half written by a process that ended")
    name = f"{category}/{path.name}"
    size = size_of(path) if stored is None else stored
    if name in needs.folders:
        return Item(path, category, size, needed=True, reason=needs.folders[name])
    if name in needs.deleted:
        return Item(path, category, size, needed=False, reason="left by a deletion")
    if category == "saes":
        reason = "weights that this database does not know, left alone"
        return Item(path, category, size, needed=True, reason=reason, known=False)
    if category == "models":
        return _model(path, size, needs)
    if not _KEY.fullmatch(path.name):
        return _unknown(path)
    return Item(path, category, size, needed=False, reason=_unneeded(category, name, needs))


def _model(path: Path, size: int, needs: Needs) -> Item:
    found = _MODEL.fullmatch(path.name)
    if found is None:
        return _unknown(path)
    if found[1] in needs.models:
        return Item(path, "models", size, needed=True, reason="a registered model")
    if needs.active:
        return Item(path, "models", size, needed=True, reason="a run under way may be about to register it")
    return Item(path, "models", size, needed=False, reason="no registered model was converted from this file")


def _unneeded(category: str, name: str, needs: Needs) -> str:
    unfinished = (
        f"run {needs.unfinished[name]} did not end well, and starts over here" if name in needs.unfinished else ""
    )
    if category == "indexes":
        return unfinished or "no published index is of it"
    if category == "training":
        return unfinished or "no training under way continues from it"
    return unfinished or "a cache: a run that needs it makes it again"


def _unknown(path: Path) -> Item:
    return Item(path, "other", size_of(path), needed=True, reason="unknown, left alone", known=False)
