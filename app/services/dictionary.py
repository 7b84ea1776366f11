"""The dictionary of an SAE: one agreed text per feature, and how it is cited."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import NotFound
from app.queries.blind_tests import LabelScore, label_scores
from app.queries.dictionary import Agreed, all_indexes, decided, labelled_together
from app.queries.label_files import provenance_hash
from app.queries.saes import SaeDetail
from app.services.collisions import normalise

RULE = (
    "A feature stands here if a reviewer decided what it means, or if two people or more, and as many as the label set "
    "needs, labelled it with the same words, categories and interpretability, so that nothing is left to decide. Case, "
    "punctuation and spaces do not count."
)


@dataclass(frozen=True, slots=True)
class Entry:
    """What a feature means, as a reviewer decided or as `people` people say; `score` is of a detection test of it."""

    agreed: Agreed
    people: int
    score: LabelScore | None


@dataclass(frozen=True, slots=True)
class Cited:
    """The index that a citation names; `newer` is when a newer one was published, None if it is the current one."""

    hash: str
    published_at: datetime
    newer: datetime | None


async def read_dictionary(session: AsyncSession, sae: SaeDetail, *, search: str = "") -> list[Entry]:
    """Return the entries of an SAE whose texts or categories hold all words of `search`, by feature."""
    entries = {one.feature: one for one in await labelled_together(session, sae.id) if _is_alike(one)}
    entries |= {one.feature: one for one in await decided(session, sae.id)}
    words = search.casefold().split()
    found = [entries[feature] for feature in sorted(entries) if _has(entries[feature], words)]
    scores = await label_scores(session, [label for one in found for label in one.labels])
    return [Entry(one, len(set(one.labels)), _score(one, scores)) for one in found]


def _is_alike(agreed: Agreed) -> bool:
    return not agreed.is_disputed and len({normalise(text) for text in agreed.texts}) == 1


def _has(agreed: Agreed, words: Sequence[str]) -> bool:
    text = " ".join((agreed.explanation, *agreed.categories)).casefold()
    return all(word in text for word in words)


def _score(agreed: Agreed, scores: dict[int, list[LabelScore]]) -> LabelScore | None:
    """Return the newest score of a detection test of a label with this very text."""
    if agreed.is_decision:
        return None  # the decision's own words may be others than the labels'
    tested = [
        score
        for label in agreed.labels
        for score in scores.get(label, ())
        if score.is_current and score.kind == "detection"
    ]
    return max(tested, key=lambda score: score.answered_at, default=None)


async def find_citation(session: AsyncSession, sae: SaeDetail, hashed: str) -> Cited:
    """Return the index that a citation of the dictionary names.

    Raises:
        NotFound: this SAE never had such an index.
    """
    indexes = await all_indexes(session, sae.id)
    for index in indexes:
        if provenance_hash(index.provenance) == hashed:
            current = indexes[0]
            is_current = provenance_hash(current.provenance) == hashed
            return Cited(hashed, index.published_at, None if is_current else current.published_at)
    raise NotFound(f"{sae.slug} never had the index “{hashed[:40]}”, which this address names.")


def current_hash(sae: SaeDetail) -> str:
    """Return the hash of the current index, '' if there is none."""
    return provenance_hash(sae.index.provenance) if sae.index else ""


def bibtex(sae: SaeDetail, address: str, entries: int) -> str:
    """Return an entry for a bibliography; slugs and hashes have no character that BibTeX reads."""
    year = sae.index.published_at.year if sae.index else 0
    return (
        f"@misc{{{sae.slug}-{current_hash(sae)},\n"
        f"  title = {{Dictionary of {entries} agreed features of {{{sae.slug}}}}},\n"
        f"  year = {{{year}}},\n"
        f"  note = {{SeeSAE, index {current_hash(sae)}}},\n"
        f"  url = {{{address}}}\n"
        "}"
    )
