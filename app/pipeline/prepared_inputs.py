"""The inputs of training, indexing and evaluation: a model, a corpus cut into sequences, and activations.

The model runs over the corpus once. The activations that an SAE is trained on stay on disk, and indexing reads them
again: the demo costs one forward pass, and an index of an SAE on its own corpus costs no further one.
"""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, fields
from pathlib import Path

from rich.filesize import decimal

from app.artifacts import content_key
from app.errors import Conflict, Unprocessable
from app.pipeline.forecast import Work, expected_seconds, measure_speed
from app.pipeline.identities import model_source, register_corpus, register_model
from app.pipeline.params import LENGTH, SHORTEST, CorpusParams
from app.pipeline.shared_work import forward_work
from app.pipeline.sources import fetch_packages, read_corpus, read_model
from app.queries import runs
from app.queries.corpora import CorpusInfo
from app.queries.models import ModelInfo
from app.queries.saes import SaeDetail
from app.runs.context import RunContext
from app.runs.job_context import JobContext
from app.runs.sharing import shared
from app.storage import removal
from sae_core.activations import ActivationCache, ActivationStream
from sae_core.corpora import Corpus, Sequences, pack
from sae_core.errors import ModelError
from sae_core.files import make_folder
from sae_core.models import HookPoint, LanguageModel
from sae_core.progress import Progress
from sae_core.saes import SAE

SEED = 0
"""Of packing and of sampled examples: fixed, so that the same corpus and SAE always give the same index."""


@dataclass(frozen=True, slots=True)
class HookPair:
    """The hook point that is read, and for a transcoder the one that is reconstructed."""

    input: HookPoint
    output: HookPoint | None = None

    @classmethod
    def parse(cls, hook: str, hook_out: str | None) -> "HookPair":
        """Parse both names.

        Raises:
            ModelError: one of them is not a hook point.
        """
        return cls(HookPoint.parse(hook), None if hook_out is None else HookPoint.parse(hook_out))

    @classmethod
    def parse_all(cls, hooks: Sequence[str], hook_out: str | None) -> list["HookPair"]:
        """Parse the hook points of several SAEs.

        Raises:
            ModelError: one of them is not a hook point, or two names are of one.
        """
        pairs = [cls.parse(hook, hook_out) for hook in hooks]
        for number, pair in enumerate(pairs):
            if pair in pairs[:number]:
                raise ModelError(f"The hook point {pair.input} is given twice. Give each once.")
        return pairs

    def names(self) -> dict[str, str]:
        """Return both by the names that rows and content keys use."""
        return {"hook": str(self.input)} | ({} if self.output is None else {"hook_out": str(self.output)})


@dataclass(frozen=True, slots=True)
class TokenisedInputs:
    """A model, its hook points, and a corpus cut into sequences: all that names and content keys depend on."""

    model: LanguageModel
    model_row: ModelInfo
    hooks: HookPair
    corpus: Corpus
    corpus_row: CorpusInfo
    sequences: Sequences
    sequences_folder: Path


@dataclass(frozen=True, slots=True)
class PreparedInputs(TokenisedInputs):
    """Inputs, and the model's activations on them."""

    activations: ActivationCache | ActivationStream

    @property
    def cache(self) -> ActivationCache | None:
        """The activations if they are on disk."""
        return self.activations if isinstance(self.activations, ActivationCache) else None


@dataclass(frozen=True, slots=True)
class Cut:
    """The way a corpus is cut into sequences."""

    tokens: int | None
    length: int
    prepend_bos: bool

    @classmethod
    def of(cls, params: CorpusParams, sae: SAE | None) -> "Cut":
        """Return what the parameters say, and else what fits the SAE that is to read the sequences."""
        length = params.length or default_length(sae)
        return cls(params.tokens, length, prepend_bos=sae is None or sae.prepend_bos)

    def key(self) -> dict[str, int | bool | None]:
        """Return its part of a content key; the usual prefix is left out, as it was before there was another."""
        key: dict[str, int | bool | None] = {"tokens": self.tokens, "length": self.length}
        return key if self.prepend_bos else {**key, "prepend_bos": False}


def default_length(sae: SAE | None) -> int:
    """Return the tokens per sequence: `LENGTH`, or as many as the SAE was trained on if that is fewer."""
    if sae is None or sae.context_size is None:
        return LENGTH
    return max(SHORTEST, min(LENGTH, sae.context_size))


async def prepare_registered(
    run: RunContext,
    ctx: JobContext,
    readers: Sequence[tuple[SAE, SaeDetail]],
    params: CorpusParams,
    *,
    corpus_name: str | None = None,
    work: Work | None = None,
) -> list[PreparedInputs]:
    """Prepare the inputs of registered SAEs of one model, with activations on disk: one pass of the model for all.

    Sequences begin as those of the SAEs' training did, and by default are no longer.

    Raises:
        Conflict: the model at its source is no longer the one that the SAEs were trained on.
        Unprocessable: the SAEs read different sequences.
    """
    cuts = {Cut.of(params, sae) for sae, _ in readers}
    if len(cuts) > 1:
        raise Unprocessable(
            "These SAEs read texts of different lengths, or some with BOS and some without it, so they cannot share a "
            "pass. Give the tokens per sequence, or index each by itself."
        )
    details = [detail for _, detail in readers]
    hooks = list(dict.fromkeys(HookPair.parse(detail.hook, detail.hook_out) for detail in details))
    tokenised = await tokenise(
        run, ctx, model_source(details[0].model), hooks, params, reader=readers[0], corpus_name=corpus_name
    )
    prepared = dict(zip(hooks, await run_model(run, ctx, tokenised, work=work), strict=True))
    return [prepared[HookPair.parse(detail.hook, detail.hook_out)] for detail in details]


async def tokenise(
    run: RunContext,
    ctx: JobContext,
    model: str,
    hooks: Sequence[HookPair],
    params: CorpusParams,
    *,
    reader: tuple[SAE, SaeDetail] | None = None,
    model_name: str | None = None,
    corpus_name: str | None = None,
) -> list[TokenisedInputs]:
    """Read the corpus, load the model, register both, and cut the corpus into sequences: the same for all `hooks`.

    Args:
        run: whose stages are entered.
        ctx: of the process.
        model: as `read_model` takes it.
        hooks: that are read; there is one TokenisedInputs for each.
        params: the corpus.
        reader: the SAE that is to read the sequences, and that the model has to be of; None if it is yet to be trained.
        model_name, corpus_name: names to show; by default made from their sources.

    Raises:
        CorpusError: the corpus cannot be read; the model was not looked at.
        Conflict: another model has this name, or the model is not that of the SAE.
    """
    cache = ctx.settings.home / "cache"
    async with run.stage("fetch") as progress:
        # The corpus is read first, so that a wrong column of it is refused before gigabytes of a model are fetched.
        await run.in_thread(fetch_packages, None, params.corpus, cache, progress)
        corpus = await run.in_thread(
            read_corpus,
            params.corpus,
            text_column=params.text_column,
            config=params.subset,
            split=params.split,
            cache=cache,
        )
        await run.in_thread(fetch_packages, model, None, cache, progress)
    async with run.stage("load"):
        with run.waiting("load", "its weights") as waiting:
            language_model = await run.in_thread(
                read_model,
                model,
                device=ctx.settings.device,
                cache=cache,
                converted=ctx.artifacts.models,
                waiting=waiting,
            )
        for pair in hooks:
            for hook in filter(None, (pair.input, pair.output)):
                language_model.d_in(hook)  # refuses a layer that the model does not have, before any work is done
        if reader is None:
            model_row = await register_model(ctx, run.run_id, language_model, name=model_name)
        else:
            model_row = _same_model(language_model, reader[1])
            async with ctx.sessions.begin() as session:
                await runs.note_use(session, run.run_id, f"model {model_row.id}")
        language_model.name = model_row.name
        corpus_row = await register_corpus(ctx, run.run_id, corpus, name=corpus_name)
    async with run.stage("tokenise") as progress:
        cut = Cut.of(params, reader[0] if reader else None)
        folder = ctx.artifacts.sequences(sequences_key(corpus, language_model, cut))
        async with run.lock("tokenise", folder, "these sequences"):
            sequences = await run.in_thread(_sequences, folder, language_model, corpus, cut, progress)
    return [TokenisedInputs(language_model, model_row, pair, corpus, corpus_row, sequences, folder) for pair in hooks]


def _same_model(model: LanguageModel, sae: SaeDetail) -> ModelInfo:
    if (model.weights_sha256, model.tokenizer_sha256) != (sae.model.weights_sha256, sae.model.tokenizer_sha256):
        raise Conflict(
            f"The model at {model.source} is no longer the one that {sae.slug} was trained on: its weights or its "
            "tokenizer changed. Put the former files back, or train an SAE on the new ones."
        )
    return sae.model


async def run_model(
    run: RunContext,
    ctx: JobContext,
    inputs: Sequence[TokenisedInputs],
    *,
    stream_mb: int | None = None,
    work: Work | None = None,
) -> list[PreparedInputs]:
    """Run the model over the sequences once for all of `inputs`, which differ in hooks, and keep its activations.

    With `stream_mb` the model does not run yet: activations are computed as they are needed, and that much memory holds
    them. Otherwise the run says how long it takes, if it does `work` on one SAE.
    """
    async with run.stage("activations") as progress:
        if work is not None and stream_mb is None and len(inputs) == 1:
            await _foresee(run, inputs[0], work, progress)
        activations: Sequence[ActivationCache | ActivationStream]
        if stream_mb is None:
            activations = await _cached(run, ctx, inputs, progress)
        else:
            activations = [
                ActivationStream(
                    own.model,
                    own.hooks.input,
                    own.sequences,
                    target=own.hooks.output,
                    buffer_bytes=stream_mb * 10**6,
                )
                for own in inputs
            ]
    return [
        PreparedInputs(**{field.name: getattr(own, field.name) for field in fields(own)}, activations=found)
        for own, found in zip(inputs, activations, strict=True)
    ]


async def _foresee(run: RunContext, inputs: TokenisedInputs, work: Work, progress: Progress) -> None:
    """Say how long the stages will take, by what this machine does in a second."""
    hooks = [hook for hook in (inputs.hooks.input, inputs.hooks.output) if hook is not None]
    progress(0, inputs.sequences.n_counted)
    speed = await run.in_thread(measure_speed, inputs.model, hooks, inputs.sequences)
    last = max(hooks, key=lambda hook: hook.layer)
    run.expect(expected_seconds(speed, inputs.model, last, inputs.sequences, work))


def model_identity(model: LanguageModel) -> dict[str, str]:
    """Return what the model's activations depend on, for content keys; keys from before dtypes were float32."""
    return {"model": model.weights_sha256} | ({} if model.dtype == "float32" else {"dtype": model.dtype})


def activations_key(model: LanguageModel, hooks: HookPair, sequences: Sequences) -> str:
    """Return the key of the activations of these hook points."""
    return content_key(sequences=sequences.sha256, **model_identity(model), **hooks.names())


def sequences_key(corpus: Corpus, model: LanguageModel, cut: Cut) -> str:
    """Return the key of the corpus cut into sequences; which tokens are special is not part of the tokenizer's hash."""
    return content_key(
        corpus=corpus.sha256,
        tokenizer=model.tokenizer_sha256,
        special=sorted(model.special_token_ids),
        seed=SEED,
        **cut.key(),
    )


async def _cached(
    run: RunContext, ctx: JobContext, inputs: Sequence[TokenisedInputs], progress: Progress
) -> list[ActivationCache]:
    """Write the activations to disk; the stage's title says how much room they take."""
    model, sequences = inputs[0].model, inputs[0].sequences
    points = [(own.hooks.input, own.hooks.output) for own in inputs]
    folders = [ctx.artifacts.activations(activations_key(model, own.hooks, sequences)) for own in inputs]
    width = sum(model.d_in(hook) for pair in points for hook in pair if hook is not None)
    size = ActivationCache.size(sequences, width)
    run.retitle("activations", f"Run the model (activations take {decimal(size)})")
    await removal.make_room(ctx.sessions, ctx.artifacts, folders, size, ctx.settings.cache_limit)
    async with AsyncExitStack() as locks:
        for folder in sorted(folders):  # in one order, so that no two runs wait for each other
            await locks.enter_async_context(run.lock("activations", folder, "these activations"))
        source = model_source(inputs[0].model_row)
        work = forward_work(model, source, points, inputs[0].sequences_folder, folders)
        make = await locks.enter_async_context(shared(run, ctx, "activations", work))
        caches = await run.in_thread(
            ActivationCache.build_together, model, points, sequences, folders, make=make, progress=progress
        )
        for folder in folders:
            removal.touch(folder)
        return caches


def _sequences(folder: Path, model: LanguageModel, corpus: Corpus, cut: Cut, progress: Progress) -> Sequences:
    if folder.exists():
        sequences = Sequences.load(folder)
    else:
        sequences = pack(
            corpus,
            model,
            length=cut.length,
            max_tokens=cut.tokens,
            seed=SEED,
            prepend_bos=cut.prepend_bos,
            progress=progress,
        )
        make_folder(folder, sequences.save)
    progress(sequences.n_counted, sequences.n_counted)
    return sequences
