"""Train and run sparse autoencoders on the activations of language models.

    from sae_core import load_model, load_sae

Names are imported when they are first used, so that asking for a small one does not load `transformers`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sae_core.activations import ActivationCache, ActivationStream
    from sae_core.checkpoints import load_sae, save_sae
    from sae_core.corpora import load_corpus, pack
    from sae_core.evaluation import evaluate
    from sae_core.interventions import apply_edits
    from sae_core.models import HookPoint, LanguageModel, load_model
    from sae_core.monitoring import load_monitor, watch
    from sae_core.saes import ARCHITECTURES, SAE
    from sae_core.training import TrainingConfig, train, train_together

_HOME = {
    "ActivationCache": "activations",
    "ActivationStream": "activations",
    "load_sae": "checkpoints",
    "save_sae": "checkpoints",
    "load_corpus": "corpora",
    "pack": "corpora",
    "evaluate": "evaluation",
    "apply_edits": "interventions",
    "HookPoint": "models",
    "LanguageModel": "models",
    "load_model": "models",
    "load_monitor": "monitoring",
    "watch": "monitoring",
    "ARCHITECTURES": "saes",
    "SAE": "saes",
    "TrainingConfig": "training",
    "train": "training",
    "train_together": "training",
}

__all__ = [
    "ARCHITECTURES",
    "SAE",
    "ActivationCache",
    "ActivationStream",
    "HookPoint",
    "LanguageModel",
    "TrainingConfig",
    "apply_edits",
    "evaluate",
    "load_corpus",
    "load_model",
    "load_monitor",
    "load_sae",
    "pack",
    "save_sae",
    "train",
    "train_together",
    "watch",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"sae_core.{_HOME[name]}"), name)
