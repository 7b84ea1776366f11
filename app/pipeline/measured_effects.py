"""Effects in shards of features: each is measured once, kept on disk, and all are published together."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from app.artifacts import content_key, store_key
from app.errors import Unprocessable
from app.pipeline.prepared_inputs import PreparedInputs, model_identity
from app.queries.effects import put_effects
from app.queries.saes import SaeDetail
from app.runs.context import RunContext
from app.runs.job_context import JobContext
from sae_core.effects import EffectConfig, HeldOut, UpperLayers, measure_effects
from sae_core.files import sha256_json, write_json
from sae_core.progress import Progress, silent
from sae_core.saes import SAE

if TYPE_CHECKING:
    from app.pipeline.effects import EffectsParams

SHARD = 128
"""Features that are measured together, for which the model reads the text once without a change. An interruption loses
at most the work on these."""


async def measure(
    run: RunContext, ctx: JobContext, sae: SAE, detail: SaeDetail, inputs: PreparedInputs, params: "EffectsParams"
) -> dict[str, Any]:
    """Measure the effects that `params` ask for, publish them, and return the result of the run.

    Raises:
        Unprocessable: the SAE has no such feature.
        CorpusError: no text is held out.
    """
    beyond = [feature for feature in params.features or () if feature >= sae.d_sae]
    if beyond:
        raise Unprocessable(f"{detail.slug} has no feature {beyond[0]}: its features are 0 to {sae.d_sae - 1}.")
    config = EffectConfig(contexts=params.contexts, seed=params.seed)
    settings = {"config": json.loads(json.dumps(config.__dict__)), "held_out": params.held_out}
    key = content_key(
        store=store_key(detail, inputs.sequences.sha256),
        target=detail.hook_out,
        **model_identity(inputs.model),
        **settings,
    )
    folder = ctx.artifacts.effects(key)
    held_out = _held_out(detail, inputs)
    async with run.stage("effects") as progress:
        async with run.lock("effects", folder, "these effects"):
            measured = await run.in_thread(
                _measure, sae, inputs, params, config, folder, partial(run.retitle, "effects"), progress
            )
        effects = measured.effects
        provenance = {
            **settings,
            "corpus": inputs.corpus_row.slug,
            "sequences_sha256": inputs.sequences.sha256,
            "held_out_tokens": measured.tokens,
            "held_out_from_training": held_out is None,
        }
        async with ctx.sessions.begin() as session:
            await put_effects(session, detail.id, run.run_id, effects, provenance)
    ratios = [effect["ratio"] for effect in effects if effect["ratio"] is not None]
    notes = [note for note in (held_out, measured.note) if note]
    return {
        "sae": detail.slug,
        "features": len(effects),
        "used": sum(effect["interval"] is not None and effect["interval"][0] > 1 for effect in effects),
        "held_out_tokens": measured.tokens,
        "median_ratio": median(ratios) if ratios else None,
        "seconds_per_feature": measured.seconds_per_feature,
        **({"notes": notes} if notes else {}),
    }


def _held_out(detail: SaeDetail, inputs: PreparedInputs) -> str | None:
    """Return why the sequences may not have been held out from the SAE's training, None if they were."""
    trained_on, corpus = detail.config.get("sequences"), inputs.corpus_row
    if trained_on is None:
        return f"{detail.slug} was trained elsewhere, perhaps on some of this text, so nothing is known to be held out."
    if trained_on == inputs.sequences.sha256:
        return None
    if (detail.config.get("corpus"), detail.config.get("corpus_version")) != (corpus.slug, corpus.version):
        return None
    return (
        f"{detail.slug} was trained on {corpus.title} cut in another way, so it may have been trained on some of this "
        "text. Leave out the corpus, its tokens and their length to measure on what was held out."
    )


@dataclass(frozen=True, slots=True)
class _Measured:
    """Effects, and how they came to be."""

    effects: list[dict[str, Any]]
    tokens: int
    """Held-out tokens that they were looked for on."""
    seconds_per_feature: float | None
    """Of those that were measured now; None if all were on disk."""
    note: str | None


def _measure(
    sae: SAE,
    inputs: PreparedInputs,
    params: "EffectsParams",
    config: EffectConfig,
    folder: Path,
    retitle: Callable[[str], None],
    progress: Progress = silent,
) -> _Measured:
    """Measure what is not in the folder yet, and return all."""
    assert inputs.cache is not None, "effects are measured from activations on disk"
    sae = sae.for_inference().to(inputs.model.device)
    text = HeldOut(sae, inputs.cache, inputs.sequences, max_tokens=params.held_out)
    upper = UpperLayers(inputs.model, inputs.hooks.output or inputs.hooks.input)
    note = None
    if not upper.skipped:
        note = f"All layers of {inputs.model.name} ran for each change, not only those above {upper.hook}: {upper.why}."
        retitle(f"Measure the effects of features (slowly: {upper.why})")
    by_count = np.argsort(-text.counts(), kind="stable")[: params.sample]
    features = list(params.features) if params.features else by_count.tolist()
    effects: list[dict[str, Any]] = []
    measured, seconds = 0, 0.0
    for shard in _shards(features):
        path = folder / f"shard-{sha256_json(shard)[:20]}.json"
        before = len(effects)

        def report(done: int, total: int, _: Any = None, /, *, before: int = before, size: int = len(shard)) -> None:
            progress(before + size * done // max(total, 1), len(features))

        if not path.exists():
            started = time.monotonic()
            found = measure_effects(upper, text, shard, config, progress=report)
            write_json(path, [effect.as_json() for effect in found])
            measured, seconds = measured + len(shard), seconds + time.monotonic() - started
        effects += json.loads(path.read_text(encoding="utf-8"))
        progress(len(effects), len(features))
    return _Measured(effects, text.tokens, round(seconds / measured, 3) if measured else None, note)


def _shards(features: Sequence[int]) -> Iterator[list[int]]:
    for start in range(0, len(features), SHARD):
        yield list(features[start : start + SHARD])
