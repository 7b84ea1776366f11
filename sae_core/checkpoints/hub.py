"""SAEs on the hub: from an address to files in the hub's cache.

`huggingface_hub` decides where the hub and the cache are: `HF_ENDPOINT`, `HF_HOME`, `HF_TOKEN` and `HF_HUB_OFFLINE`
work as everywhere.
"""

import os
import posixpath
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from sae_core.checkpoints.formats import none_here, not_in, sae_places
from sae_core.errors import CheckpointError, SAEError, first_line
from sae_core.files import explain_full_disk

PREFIX = "hf:"
"""Prefix that marks an address of the hub, for when a path of the same name exists."""


@dataclass(frozen=True)
class Address:
    """An address on the hub."""

    repo: str
    """`org/repo`."""
    path: str = ""
    """Folder or file inside; empty for the repository itself."""
    revision: str | None = None
    """Branch, tag or commit; None for the main branch."""

    @classmethod
    def parse(cls, text: str) -> "Address | None":
        """Read `org/repo[/folder][@revision]`, with or without `hf:`; None if `text` is not an address."""
        match = re.fullmatch(r"([\w-][\w.-]*/[\w-][\w.-]*)(?:/([^@]*?))?/?(?:@(\S+))?", text.removeprefix(PREFIX))
        return cls(match[1], match[2] or "", match[3]) if match else None

    def __str__(self) -> str:
        return f"{self.repo}/{self.path}".rstrip("/") + (f"@{self.revision}" if self.revision else "")


@dataclass(frozen=True)
class Fetched:
    """An SAE in the hub's cache."""

    path: Path
    """Its folder, or file."""
    source: str
    """Its address without the revision."""
    revision: str
    """Its commit."""


def fetch(address: Address) -> Fetched:
    """Download the files of one SAE, and no others, unless the cache has them.

    Without a network, only what the cache holds is found.

    Raises:
        CheckpointError: the hub cannot be reached, does not give out the repository or revision, or has no SAE
            there; in a folder of several SAEs the message names them.
        ArtifactError: the disk is full.
    """
    endpoint = os.environ.get("HF_ENDPOINT")  # read now: the package itself reads it once, when it is imported
    with _explained(address), explain_full_disk(Path(constants.HF_HUB_CACHE)):
        place, files = _choose(address, _files(address, endpoint))
        downloaded = [
            Path(hf_hub_download(address.repo, file, revision=address.revision, endpoint=endpoint)) for file in files
        ]
    snapshot = downloaded[0].parents[files[0].count("/")]
    return Fetched(snapshot / place, str(Address(address.repo, place)), snapshot.name)


def _files(address: Address, endpoint: str | None) -> list[str]:
    """Return all files of the repository, by the hub, or by the cache if the hub cannot be reached."""
    try:
        info = HfApi(endpoint=endpoint).model_info(address.repo, revision=address.revision)
        return [file.rfilename for file in info.siblings or []]
    except HfHubHTTPError:
        raise
    except Exception as error:  # of its HTTP client, which differs from version to version
        try:
            snapshot = Path(snapshot_download(address.repo, revision=address.revision, local_files_only=True))
        except LocalEntryNotFoundError:
            raise error from None
        return [file.relative_to(snapshot).as_posix() for file in snapshot.rglob("*") if file.is_file()]


def _choose(address: Address, files: list[str]) -> tuple[str, list[str]]:
    """Return the folder (or file) of the SAE at an address, and the files to download, weights first."""
    places = {
        place: found
        for place, found in sae_places(files).items()
        if address.path in ("", place, found[1]) or place.startswith(f"{address.path}/")
    }
    chosen = [place for place, (_, weights) in places.items() if address.path in (place, weights)]
    if address.path and not any(f"{file}/".startswith(f"{address.path}/") for file in files):
        raise not_in(address.repo, address.path, sae_places(files), "Check the address.")
    if len(chosen or places) != 1:
        is_model = posixpath.join(address.path, "config.json") in files
        raise none_here(str(address), places, is_model)
    place = next(iter(chosen or places))
    candidate, weights = places[place]
    beside = [posixpath.normpath(posixpath.join(place, name)) for name in (candidate.config, *candidate.extras) if name]
    return place, [weights, *(file for file in beside if file in files)]


@contextmanager
def _explained(address: Address) -> Iterator[None]:
    """Turn the errors of `huggingface_hub` into one line that says what to do."""
    repo = address.repo
    try:
        yield
    except SAEError:
        raise
    except GatedRepoError as error:
        raise CheckpointError(
            f"{repo} is gated. Ask for access on its page on the hub, then give your token: hf auth login, or HF_TOKEN."
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{repo} has no revision {address.revision}. Give a branch, tag or commit.") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if isinstance(error, RepositoryNotFoundError) or status in (401, 403, 404):
            raise CheckpointError(
                f"There is no path {address}, and no repository {repo} on the hub that you may see. Check the name; "
                "if it is private, give your token: hf auth login, or HF_TOKEN."
            ) from error
        raise CheckpointError(f"The hub answered {status} when asked for {address}. Try again later.") from error
    except OfflineModeIsEnabled as error:
        raise CheckpointError(
            f"{address} is not in the cache, and HF_HUB_OFFLINE forbids to ask the hub. Unset it, or give a folder."
        ) from error
    except Exception as error:
        reason = first_line(error) or type(error).__name__
        raise CheckpointError(
            f"{address} cannot be fetched: {reason}. Check the path or address and the network, or give a folder."
        ) from error
