"""Train an SAE on a model's activations over a corpus."""

from typing import Any

from app.jobs.context import RunContext
from app.jobs.naming import sae_slug
from app.jobs.params import TrainParams
from app.jobs.stages import evaluate_sae, prepare, train_sae
from app.jobs.workshop import Workshop
from sae_core.models import HookPoint
from sae_core.training import TrainingConfig


def default_samples(tokens: int) -> int:
    """Activations to train on: five passes over the corpus; of a small one more, for steps enough to learn at all."""
    return max(5 * tokens, min(20 * tokens, 400_000))


def training_config(params: TrainParams, tokens: int) -> TrainingConfig:
    """The training that these parameters ask for, on a corpus of `tokens` counted tokens."""
    return TrainingConfig(
        architecture=params.architecture,
        d_sae=params.width,
        k=params.k,
        l1_coefficient=params.l1_coefficient,
        samples=params.samples or default_samples(tokens),
        batch_size=params.batch_size,
        lr=params.lr,
        seed=params.seed,
    )


async def run_train(run: RunContext, shop: Workshop) -> dict[str, Any]:
    """Do a run of kind "train": prepare the activations, train, evaluate."""
    params = TrainParams.model_validate(run.params)
    hook = HookPoint.parse(params.hook)
    training_config(params, tokens=1).resolved()  # refuses what cannot be trained before the model runs
    material = await prepare(run, shop, params.model, hook, params)
    slug = params.name or sae_slug(material.model.name, str(hook), params.architecture, params.width)
    config = training_config(params, material.sequences.n_counted)
    sae, detail = await train_sae(run, shop, slug, config, material)
    evaluation = await evaluate_sae(run, shop, sae, detail, material)
    return {
        "sae": slug,
        "features": sae.d_sae,
        "tokens": material.sequences.n_counted,
        "explained_variance": evaluation.explained_variance,
        "l0": evaluation.l0,
    }
