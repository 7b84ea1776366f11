"""Probe an SAE on text sets, beside random dictionaries and the activations themselves."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from app.artifacts import content_key
from app.pipeline.builtin_sets import ensure_builtin_set
from app.pipeline.prepared_inputs import SEED, PreparedInputs
from app.queries import saes
from app.queries.saes import SaeDetail
from app.queries.text_sets import TextItem, TextSetView, list_texts
from app.runs.context import RunContext
from app.runs.job_context import JobContext
from app.services.builtin_sets import BUILTIN_SETS
from app.services.probing import PROBE_SETS, draw_texts
from app.services.text_sets import find_text_set
from sae_core.files import sha256_code, write_json
from sae_core.probing import KS, MAX_TOKENS, pool_texts, probe_set, random_dictionary
from sae_core.progress import Progress, rescaled
from sae_core.saes import SAE

DRAWS = 5
"""Random dictionaries."""
_READING = 0.9
"""Part of a set's progress that reading its texts is; the rest is probing."""
_TOKEN_CHARACTERS = 4
_CENTRE_TOKENS = 16_384


async def probe_sae(
    run: RunContext,
    ctx: JobContext,
    sae: SAE,
    detail: SaeDetail,
    inputs: PreparedInputs,
    names: Sequence[str],
    *,
    active: float,
) -> dict[str, Any]:
    """Probe an SAE on text sets, and store the figures with it. What was found on a set is kept until all are done.

    Args:
        run: with the stages `PROBING`.
        ctx: where the sets are.
        sae: of which `for_inference` is used.
        detail: its row.
        inputs: the model, and activations whose mean random dictionaries subtract.
        names: text sets; a built-in one is added if it is not there.
        active: mean active features per token of the SAE.

    Raises:
        NotFound: there is no such set.
        Unprocessable: it has too few labelled texts.
        Unavailable, UserError, ArtifactError: a built-in one cannot be fetched.
    """
    sets = await _texts(run, ctx, names)
    hashes = {view.name: view.hash for view, _ in sets}
    key = content_key(
        sae=detail.weights_sha256,
        slug=detail.slug,
        model=detail.model.weights_sha256,
        hook=detail.hook,
        sets=hashes,
        sequences=inputs.sequences.sha256,
        code=sha256_code(),
    )
    folder = ctx.artifacts.probing(key)
    async with run.stage("probe") as progress, run.lock("probe", folder, "this probing"):
        found = await run.in_thread(_probe, sae, inputs, sets, folder, active, progress)
        async with ctx.sessions.begin() as session:
            await saes.set_metrics(session, detail.id, {"probing": found})
        shutil.rmtree(folder, ignore_errors=True)
    return found


async def _texts(run: RunContext, ctx: JobContext, names: Sequence[str]) -> list[tuple[TextSetView, list[TextItem]]]:
    """Return the sets with the texts that are used."""
    sets = []
    async with run.stage("texts") as progress:
        for name in names:
            if name in BUILTIN_SETS:
                await ensure_builtin_set(run, ctx, name, progress)
            async with ctx.sessions() as session:
                view = await find_text_set(session, name)
                sets.append((view, draw_texts(name, await list_texts(session, view.id))))
    return sets


def _probe(
    sae: SAE,
    inputs: PreparedInputs,
    sets: Sequence[tuple[TextSetView, list[TextItem]]],
    folder: Path,
    active: float,
    progress: Progress,
) -> dict[str, Any]:
    model, hook = inputs.model, inputs.hooks.input
    sae = sae.for_inference().to(model.device)
    centre = _mean_activation(sae, inputs).to(model.device)
    random = [random_dictionary(sae.d_sae, centre, active=active, seed=SEED + draw) for draw in range(DRAWS)]
    total = sum(len(items) for _, items in sets)
    ends = np.cumsum([0, *(_characters(items) for _, items in sets)])
    found = []
    folder.mkdir(parents=True, exist_ok=True)
    for number, (view, items) in enumerate(sets):
        path = folder / f"{view.name}.json"
        start, stop = (ends[number : number + 2] / ends[-1]).tolist()
        if not path.exists():
            read = start + _READING * (stop - start)
            pooled = pool_texts(
                model,
                [sae, *random],
                [item.text for item in items],
                hook=hook,
                prepend_bos=sae.prepend_bos,
                progress=rescaled(progress, total, start, read),
            )
            probed = probe_set(
                pooled,
                [str(item.label) for item in items],
                np.array([item.split == "test" for item in items]),
                alike=_alike(view.name, items),
                sets=len(sets),
                seed=SEED,
                progress=rescaled(progress, total, read, stop),
            )
            write_json(path, {"name": view.name, **asdict(probed)})
        found.append(json.loads(path.read_text(encoding="utf-8")))
        progress(round(stop * total), total)
    return {
        "active": random[0].k,
        "draws": DRAWS,
        "max_tokens": MAX_TOKENS,
        "ks": list(KS),
        "sets": found,
    }


def _characters(items: Sequence[TextItem]) -> int:
    """Return about how much is read of texts, for progress that is as fast in short ones."""
    return sum(min(len(item.text), MAX_TOKENS * _TOKEN_CHARACTERS) for item in items)


def _mean_activation(sae: SAE, inputs: PreparedInputs) -> torch.Tensor:
    """Return the mean of what the SAE reads, over held-out tokens of the corpus."""
    rows = next(iter(inputs.activations.validation(_CENTRE_TOKENS)))
    return rows[:, : sae.d_in].mean(dim=0, dtype=torch.float64).float()


def _alike(name: str, items: Sequence[TextItem]) -> list[str] | None:
    field = PROBE_SETS[name].alike if name in PROBE_SETS else ""
    return [str(item.fields[field]) for item in items] if field else None
