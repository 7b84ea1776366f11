"""The list of all SAEs: filtered, by model, and in pages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from app.queries.saes import SaeDetail
from app.web.components import glossary

PAGE = 20
"""SAEs per page; a list that fits on one page needs no filter."""


@dataclass(frozen=True, slots=True)
class SaeQuery:
    """What the address asks for: words, a model, and the SAE after which the page begins; empty if absent."""

    q: str = ""
    model: str = ""
    after: str = ""

    @property
    def is_filtered(self) -> bool:
        """True if it leaves SAEs out."""
        return bool(self.q.strip() or self.model)


@dataclass(frozen=True, slots=True)
class ModelGroup:
    """SAEs of one model on a page, and how many there are on all pages."""

    model: str
    total: int
    saes: Sequence[SaeDetail]
    board: str
    """Address of the table of all SAEs of the model."""


@dataclass(frozen=True, slots=True)
class SaeList:
    """One page of the list. `first` and `more` are the addresses of the first and of the next page, None where this is
    the first or the last."""

    groups: Sequence[ModelGroup]
    total: int
    found: int
    models: Mapping[str, int]
    """All models by name, with the number of their SAEs."""
    query: SaeQuery
    first: str | None
    more: str | None
    left: int
    """SAEs on later pages."""

    @property
    def has_filter(self) -> bool:
        """True if there are more SAEs than fit on a page."""
        return self.total > PAGE


def sae_list(saes: Sequence[SaeDetail], query: SaeQuery) -> SaeList:
    """Return a page of the SAEs that match: by model, that of the newest SAE first, and within it the newest first.

    Args:
        saes: all SAEs, newest first.
        query: every word has to be in an SAE's name, model, hook point, architecture or corpus. A page that begins
            after an SAE that is gone is the first one.
    """
    models: dict[str, list[SaeDetail]] = {}
    for sae in saes:
        models.setdefault(sae.model.name, []).append(sae)
    words = query.q.lower().split()
    matching = {
        name: [sae for sae in own if all(word in _text(sae) for word in words)]
        for name, own in models.items()
        if query.model in ("", name)
    }
    rows = [sae for own in matching.values() for sae in own]
    start = next((place + 1 for place, sae in enumerate(rows) if sae.slug == query.after), 0)
    page, left = rows[start : start + PAGE], max(len(rows) - start - PAGE, 0)
    groups: dict[str, list[SaeDetail]] = {}
    for sae in page:
        groups.setdefault(sae.model.name, []).append(sae)
    return SaeList(
        groups=[
            ModelGroup(name, len(matching[name]), own, f"/compare?{urlencode({'model': name})}")
            for name, own in groups.items()
        ],
        total=len(saes),
        found=len(rows),
        models={name: len(own) for name, own in models.items()},
        query=query,
        first=_address(query, "") if start else None,
        more=_address(query, page[-1].slug) if left else None,
        left=left,
    )


def _text(sae: SaeDetail) -> str:
    corpus = sae.index.sequence_set.corpus.title if sae.index else ""
    parts = (sae.slug, sae.model.name, glossary.place(sae), sae.architecture, glossary.architecture(sae), corpus)
    return " ".join(parts).lower()


def _address(query: SaeQuery, after: str) -> str:
    given = {"q": query.q, "model": query.model, "after": after}
    return f"/?{urlencode({name: value for name, value in given.items() if value})}#saes-title"
