"""The SAEs that one training run makes: a config and a slug for each."""

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from app.artifacts import content_key
from app.pipeline.naming import sae_slug
from app.pipeline.prepared_inputs import TokenisedInputs, model_identity
from sae_core.training import TrainingConfig

if TYPE_CHECKING:
    from app.pipeline.train import TrainParams


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """One SAE to train: its slug, its config, and the parameters that gave them."""

    slug: str
    config: TrainingConfig
    options: dict[str, Any]
    """Parameters that train it again, as `seesae train --config` takes them."""
    stream_mb: int | None = None
    """Buffer in which activations that are not on disk are mixed: the order of batches depends on its size."""

    def key(self, inputs: TokenisedInputs) -> str:
        """Return the hash of everything that the trained weights depend on."""
        order = {} if self.stream_mb is None else {"stream_mb": self.stream_mb}
        return content_key(
            sequences=inputs.sequences.sha256,
            training=self.config.resolved().identity(),
            **model_identity(inputs.model),
            **inputs.hooks.names(),
            **order,
        )


def default_samples(tokens: int) -> int:
    """Return the number of activations to train on: four passes over the corpus, more over a small one."""
    return max(4 * tokens, min(20 * tokens, 400_000))


def training_configs(params: "TrainParams", tokens: int) -> list[TrainingConfig]:
    """Return the trainings of these parameters, on a corpus of `tokens` counted tokens.

    Where λ is given, there is no target number of active features: one SAE is trained, whatever the values of k.

    Raises:
        SAEError: one of them is not valid.
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
            kernels=params.kernels,
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


def training_plans(params: "TrainParams", inputs: TokenisedInputs) -> list[TrainingPlan]:
    """Return the SAEs of these parameters."""
    hooks = inputs.hooks.names()
    return [
        TrainingPlan(
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
            | {"hook": hooks["hook"], "architecture": config.architecture, "width": config.d_sae, "k": config.k},
            stream_mb=params.buffer_mb if params.stream else None,
        )
        for config in training_configs(params, inputs.sequences.n_counted)
    ]
