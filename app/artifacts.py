"""Folders of the files that runs make. A folder is named by a hash of everything that its contents depend on.

A run that is repeated, or resumed after a kill, finds what is there and makes the rest. A run with other settings never
sees it.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from app.errors import UserError
from app.object_store import ObjectStore
from sae_core.files import sha256_json

if TYPE_CHECKING:
    from app.queries.saes import SaeDetail
    from app.settings import Settings

LAYOUT = 1
"""Part of every key; raise it when the form of a folder's contents changes."""


PRODUCTS = (
    "models",
    "sequences",
    "activations",
    "training",
    "saes",
    "indexes",
    "effects",
    "readings",
    "audits",
    "probing",
)
"""Folders of products, which are folders themselves."""


def require_store(settings: "Settings") -> None:
    """Refuse an object store that cannot be used, before the work.

    Raises:
        UserError: its package or its bucket is missing, it refuses this machine, or it does not answer.
    """
    if (store := Artifacts.of(settings).store) is not None:
        store.check()


def content_key(**depends_on: Any) -> str:
    """Return a folder name for content that depends on these JSON values alone."""
    return sha256_json({"layout": LAYOUT, **depends_on})[:20]


def store_key(sae: "SaeDetail", sequences_sha256: str) -> str:
    """Return the key of the activation store of an SAE on these sequences.

    The hash of the weights says neither which activations they read nor how: the slug stands for the SAE's config.
    """
    return content_key(
        sae=sae.weights_sha256,
        slug=sae.slug,
        model=sae.model.weights_sha256,
        hook=sae.hook,
        sequences=sequences_sha256,
    )


def reading_key(sae: "SaeDetail", set_hash: str, max_tokens: int) -> str:
    """Return the key of what an SAE makes of a text set, read up to so many tokens per text."""
    return content_key(
        pools="by role",  # readings from before had raw activations of all tokens and the last one alone
        sae=sae.weights_sha256,
        slug=sae.slug,
        model=sae.model.weights_sha256,
        tokenizer=sae.model.tokenizer_sha256,
        hook=sae.hook,
        texts=set_hash,
        max_tokens=max_tokens,
    )


def weights_missing(slug: str, folder: Path) -> str:
    """Return what to say of a registered SAE whose files are not in its folder any more."""
    return (
        f"The weights of {slug} are not under {folder}. Set SEESAE_ARTIFACTS to where they are, copy them back, or "
        "repeat the command that made it."
    )


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder; 0 where there is nothing. Links are not followed."""
    if not path.is_dir() or path.is_symlink():
        return path.lstat().st_size if path.is_symlink() or path.exists() else 0
    total = 0
    for inner in path.rglob("*"):
        with suppress(FileNotFoundError):  # removed meanwhile
            total += 0 if inner.is_dir() and not inner.is_symlink() else inner.lstat().st_size
    return total


@dataclass(frozen=True, slots=True)
class Artifacts:
    """Folders under SEESAE_ARTIFACTS, or of what this machine has of the object store there."""

    root: Path
    store: ObjectStore | None = None

    @classmethod
    def of(cls, settings: "Settings") -> Self:
        """Return the folders that the settings name."""
        root, address = settings.artifacts_folder, settings.object_store
        return cls(root, None if address is None else ObjectStore(address, root))

    def pull(self, folder: Path) -> Path:
        """Fetch what the object store has of a folder that is to be read; return the folder. Call it in a thread.

        Raises:
            StoreAway, UserError: as `ObjectStore`.
        """
        if self.store is not None:
            self.store.pull(folder)
        return folder

    @property
    def models(self) -> Path:
        """Converted models, such as a GGUF file's weights as safetensors."""
        return self.root / "models"

    def converted_models(self, weights_sha256: str) -> list[Path]:
        """Return the folders of a model that was converted from a file with this hash."""
        return sorted(self.models.glob(f"*-{weights_sha256[:16]}")) if weights_sha256.isalnum() else []

    def folder(self, name: str) -> Path | None:
        """Return a product's folder by its name here, such as "saes/tiny"; None for what cannot be one."""
        parent, _, own = name.partition("/")
        is_product = parent in PRODUCTS and own and "/" not in own and "\0" not in own and own not in (".", "..")
        return self.root / parent / own if is_product else None

    def bytes_of(self, folders: Iterable[str]) -> int | None:
        """Return the bytes of products by name; None where this machine has none of them, but another may.

        Of an object store they are asked for, which takes time: call it in a thread.
        """
        found = [path for name in folders if (path := self.folder(name)) is not None]
        if self.store is not None:
            try:
                return sum(self.store.size(path) or size_of(path) for path in found)
            except UserError:
                return None
        return sum(map(size_of, found)) if self.root.is_dir() or not found else None

    def sequences(self, key: str) -> Path:
        """One corpus, packed by one tokenizer."""
        return self.root / "sequences" / key

    @property
    def activations_root(self) -> Path:
        """All caches of activations."""
        return self.root / "activations"

    def activations(self, key: str) -> Path:
        """Activations of one model at one hook point on one set of sequences."""
        return self.activations_root / key

    def training(self, key: str) -> Path:
        """Checkpoints of one training run."""
        return self.root / "training" / key

    def sae(self, slug: str) -> Path:
        """A finished SAE, in SAELens' layout."""
        return self.root / "saes" / slug

    def index(self, key: str) -> Path:
        """The activation store of one SAE on one set of sequences."""
        return self.root / "indexes" / key

    def effects(self, key: str) -> Path:
        """Measured effects of one SAE's features on one set of sequences, in shards."""
        return self.root / "effects" / key

    def reading(self, key: str) -> Path:
        """What one SAE makes of one text set, in shards of texts."""
        return self.root / "readings" / key

    def audit(self, key: str) -> Path:
        """Stages of an audit under way; what it finds is in the database."""
        return self.root / "audits" / key

    def probing(self, key: str) -> Path:
        """Text sets that a probing under way is done with; what it finds is in the database."""
        return self.root / "probing" / key
