"""The models and corpora that there are: how large they are, and which SAEs use them."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from app.artifacts import Artifacts
from app.queries import deletions as queries
from app.queries.corpora import CorpusInfo
from app.queries.deletions import TextSize
from app.queries.models import ModelInfo
from app.services.deletion import converted_folders, corpus_name


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model; `saes` are its SAEs, `text` is the text that was packed with its tokenizer."""

    model: ModelInfo
    saes: Sequence[str]
    text: TextSize
    folders: tuple[str, ...]
    """Of its converted weights, under SEESAE_ARTIFACTS."""

    @property
    def name(self) -> str:
        """Its name, as a deletion takes it."""
        return self.model.name


@dataclass(frozen=True, slots=True)
class StoredCorpus:
    """A corpus; `saes` are those whose published index is of it."""

    corpus: CorpusInfo
    saes: Sequence[str]
    text: TextSize

    @property
    def name(self) -> str:
        """Its name, as a deletion takes it."""
        return corpus_name(self.corpus)


async def stored_models(session: AsyncSession, artifacts: Artifacts) -> list[StoredModel]:
    """Return all models, by name."""
    saes, text = await queries.saes_by_model(session), await queries.text_by_model(session)
    return [
        StoredModel(
            model,
            saes.get(model.id, ()),
            text.get(model.id, TextSize(0, 0)),
            converted_folders(model, artifacts),
        )
        for model in await queries.list_models(session)
    ]


async def stored_corpora(session: AsyncSession) -> list[StoredCorpus]:
    """Return all corpora, by name and version."""
    saes, text = await queries.saes_by_corpus(session), await queries.text_by_corpus(session)
    return [
        StoredCorpus(corpus, saes.get(corpus.id, ()), text.get(corpus.id, TextSize(0, 0)))
        for corpus in await queries.list_corpora(session)
    ]
