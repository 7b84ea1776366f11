"""Feature absorption of an SAE, where its model can spell."""

from dataclasses import asdict
from typing import Any

import torch

from app.pipeline.prepared_inputs import SEED, PreparedInputs
from app.queries import saes
from app.queries.saes import SaeDetail
from app.runs.context import RunContext
from app.runs.job_context import JobContext
from app.services.absorption import MEASURE
from sae_core.errors import ModelError
from sae_core.probing import (
    SPELLS,
    Absorption,
    measure_absorption,
    measure_spelling,
    random_dictionary,
    spelling_task,
    word_activations,
)
from sae_core.progress import Progress
from sae_core.readings import encode_tokens
from sae_core.saes import SAE

ASKED = 256
"""Words that the model is asked to spell, before anything else is measured."""
WORDS = 1536
"""Words whose activations are read: 59 per letter on average, of which about 18 are tested."""


async def absorb_sae(
    run: RunContext, ctx: JobContext, sae: SAE, detail: SaeDetail, inputs: PreparedInputs, *, active: float
) -> dict[str, Any]:
    """Measure feature absorption if the model spells, beside a random dictionary, and store what was found.

    Args:
        run: with the stages `ABSORPTION`.
        ctx: where the SAE is.
        sae: an autoencoder, of which `for_inference` is used.
        detail: its row.
        inputs: the model and its hook.
        active: mean active features per token of the SAE.

    Returns:
        `measure` and `threshold`; `spelling`, None with a `reason` where the vocabulary does not allow to ask; `sae`
        and `random`, None where the model does not spell or no letters have enough words.
    """
    sae = sae.for_inference().to(inputs.model.device)
    found: dict[str, Any] = {"measure": MEASURE, "threshold": SPELLS}
    found |= {"spelling": None, "reason": None, "sae": None, "random": None}
    async with run.stage("spell") as progress:
        try:
            spelling = await run.in_thread(_spelling, sae, inputs, progress)
        except ModelError as error:
            found["reason"] = str(error)
        else:
            found |= {"spelling": asdict(spelling) | {"spells": spelling.spells}}
    async with run.stage("absorption") as progress:
        if found["spelling"] is not None and found["spelling"]["spells"]:
            own, control = await run.in_thread(_absorption, sae, inputs, active, progress)
            found |= {"sae": own and asdict(own), "random": control and asdict(control)}
    async with ctx.sessions.begin() as session:
        await saes.set_metrics(session, detail.id, {"absorption": found})
    return found


def _spelling(sae: SAE, inputs: PreparedInputs, progress: Progress) -> Any:
    task = spelling_task(inputs.model, ASKED, SEED, prepend_bos=sae.prepend_bos)
    return measure_spelling(inputs.model, task, progress)


def _absorption(
    sae: SAE, inputs: PreparedInputs, active: float, progress: Progress
) -> tuple[Absorption | None, Absorption | None]:
    """Return the absorption of the SAE, and that of a random dictionary of its shape around the words' mean."""
    task = spelling_task(inputs.model, WORDS, SEED, prepend_bos=sae.prepend_bos)
    x = torch.from_numpy(word_activations(inputs.model, task, inputs.hooks.input, progress)).to(inputs.model.device)
    control = random_dictionary(sae.d_sae, x.mean(dim=0), active=active, seed=SEED)
    found = []
    for dictionary in (sae, control):
        f = encode_tokens(dictionary, x).toarray()
        f *= dictionary.scale_back(torch.ones(len(x), device=x.device), x).cpu().numpy()[:, None]
        W_dec = dictionary.W_dec.detach().float().cpu().numpy()
        found.append(measure_absorption(x.cpu().numpy(), f, W_dec, task.letters, seed=SEED))
    return found[0], found[1]
