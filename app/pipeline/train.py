"""Train SAEs on a model's activations over a corpus."""

from itertools import product
from typing import Any

from app.pipeline.naming import sae_slug
from app.pipeline.prepared_inputs import HookPair, PreparedInputs
from app.pipeline.steps import Plan, evaluate_saes, prepare, train_saes
from app.runs.context import RunContext
from app.runs.job_context import JobContext
from app.runs.params import TrainParams
from sae_core.training import TrainingConfig


def default_samples(tokens: int) -> int:
    """Activations to train on: five passes over the corpus; of a small one more, for steps enough to learn at all."""
    return max(5 * tokens, min(20 * tokens, 400_000))


def training_configs(params: TrainParams, tokens: int) -> list[TrainingConfig]:
    """The trainings that these parameters ask for, on a corpus of `tokens` counted tokens.

    Where an architecture aims at no number of active features, all values of k are one.

    Raises:
        SAEError: one of them makes no sense.
    """
    configs = [
        TrainingConfig(
            architecture=architecture,
            d_sae=width,
            k=k,
            skip=params.skip,
            options=params.options,
            samples=params.samples or default_samples(tokens),
            batch_size=params.batch_size,
            accumulate=params.accumulate,
            precision=params.precision,
            compile=params.compile,
            lr=params.lr,
            clip=params.clip,
            seed=params.seed,
        )
        for architecture, width, k in product(params.architecture, params.width, params.k)
    ]
    for config in configs:
        config.resolved().sae(d_in=1, d_out=1 if params.hook_out else None)
    return [config for config in configs if config.takes_k or config.k == params.k[0]]


def plans(params: TrainParams, inputs: PreparedInputs) -> list[Plan]:
    """The SAEs that these parameters ask for."""
    hooks = inputs.hooks.names()
    return [
        Plan(
            slug=params.name
            or sae_slug(
                inputs.model.name,
                hooks["hook"],
                config.architecture,
                config.d_sae,
                config.k if config.takes_k and len(params.k) > 1 else None,
                hooks.get("hook_out"),
            ),
            config=config,
            options=params.model_dump(mode="json", exclude_none=True)
            | {"architecture": config.architecture, "width": config.d_sae, "k": config.k},
        )
        for config in training_configs(params, inputs.sequences.n_counted)
    ]


async def run_train(run: RunContext, ctx: JobContext) -> dict[str, Any]:
    """Do a run of kind "train": prepare the activations, train, evaluate."""
    params = TrainParams.model_validate(run.params)
    training_configs(params, tokens=1)  # refuses what cannot be trained before the model runs
    hooks = HookPair.parse(params.hook, params.hook_out)
    inputs = await prepare(run, ctx, params.model, hooks, params, stream_mb=params.buffer_mb if params.stream else None)
    trained = await train_saes(
        run,
        ctx,
        plans(params, inputs),
        inputs,
        track=params.track or (),
        feature_shards=params.feature_shards,
    )
    evaluations = await evaluate_saes(run, ctx, trained, inputs)
    results = [
        {
            "sae": detail.slug,
            "features": sae.d_sae,
            "tokens": inputs.sequences.n_counted,
            "explained_variance": evaluation.explained_variance,
            "l0": evaluation.l0,
        }
        for (sae, detail), evaluation in zip(trained, evaluations, strict=True)
    ]
    return results[0] if len(results) == 1 else {"saes": results}
