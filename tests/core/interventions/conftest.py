"""SAEs of random weights that are active on the tiny models' activations."""

from collections.abc import Callable
from typing import Any

import torch

from sae_core.models import HookPoint, LanguageModel
from sae_core.saes import SAE, JumpReLU, Standard, TopK
from sae_core.saes.jumprelu import JumpReLUConfig
from sae_core.saes.topk import TopKConfig

TEXT = "It was the best of times, it was the worst of times."
HOOK = HookPoint("resid_post", 1)


def random_sae(kind: str = "standard", *, d_in: int = 32, seed: int = 0, **options: Any) -> SAE:
    """An SAE of 48 features."""
    made: dict[str, Callable[[], SAE]] = {
        "standard": lambda: Standard(Standard.Config(d_in=d_in, d_sae=48, **options)),
        "jumprelu": lambda: JumpReLU(JumpReLUConfig(d_in=d_in, d_sae=48, **options)),
        "topk": lambda: TopK(TopKConfig(d_in=d_in, d_sae=48, k=6, **options)),
    }
    sae = made[kind]()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        sae.W_dec.div_(torch.linalg.vector_norm(sae.W_dec, dim=1, keepdim=True))
    return sae.requires_grad_(False)


def strongest(model: LanguageModel, sae: SAE, hook: HookPoint = HOOK) -> int:
    """The feature with the largest activation on `TEXT`, BOS left out."""
    x = model.activations(torch.tensor([model.tokenize(TEXT)]), hook)[0, 1:]
    return int(sae.encode(x).max(dim=0).values.argmax())
