"""Models and corpora are known by hashes of what is in them, and shown by name: several may come with one name."""

from pathlib import Path, PurePath

from app.pipeline.sources import MODELS
from app.queries import corpora, models, runs
from app.queries.corpora import CorpusInfo
from app.queries.models import ModelInfo
from app.runs.job_context import JobContext
from sae_core.corpora import Corpus, corpus_slug
from sae_core.models import LanguageModel


async def register_model(ctx: JobContext, run_id: int, model: LanguageModel, *, name: str | None = None) -> ModelInfo:
    """Return the model's row, which the run then uses; write it, with its vocabulary, where there is none.

    `name` is the name to show.

    Raises:
        Conflict: another model has the name that was given.
    """
    async with ctx.sessions.begin() as session:
        registered = await models.register_model(
            session,
            models.ModelRow(
                name=name or model.name,
                source=model.source,
                n_layers=model.n_layers,
                d_model=model.d_model,
                vocab_size=model.vocab_size,
                weights_sha256=model.weights_sha256,
                tokenizer_sha256=model.tokenizer_sha256,
                bos_token_id=model.bos_token_id,
            ),
            token_bytes=model.token_bytes(),
            special_token_ids=model.special_token_ids,
            keep_name=name is not None,
        )
        if _is_gone(registered.source):
            registered = await models.set_source(session, registered.id, model.source)
        await runs.note_use(session, run_id, f"model {registered.id}")
    return registered


async def register_corpus(ctx: JobContext, run_id: int, corpus: Corpus, *, name: str | None = None) -> CorpusInfo:
    """Return the corpus' row, which the run then uses; write it where there is none. `name` is the name to show."""
    async with ctx.sessions.begin() as session:
        registered = await corpora.register_corpus(
            session,
            corpora.CorpusRow(
                slug=corpus.slug if name is None else corpus_slug(name),
                title=corpus.title if name is None else name,
                source=corpus.source,
                licence=corpus.licence or "",
                attribution=corpus.attribution or "",
                sha256=corpus.sha256,
                documents=len(corpus.documents),
            ),
            keep_name=name is not None,
        )
        await runs.note_use(session, run_id, f"corpus {registered.id}")
    return registered


def _is_gone(source: str) -> bool:
    """True if the source is a path, and nothing is there: the model was moved."""
    return Path(source).is_absolute() and not Path(source).exists()


def model_source(model: ModelInfo) -> str:
    """Return where to load a registered model from, as `read_model` takes it.

    A model of `MODELS` is named, because its package is fetched again if another home folder lacks its file.
    """
    path = PurePath(model.source)
    for name, package in MODELS.items():
        if path.parts[-2:] == (package.sha256[:16], PurePath(package.member).name):
            return name
    return model.source
