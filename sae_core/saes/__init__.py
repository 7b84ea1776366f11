"""Sparse autoencoders and transcoders: one file per architecture, and one line here."""

from sae_core.saes.base import SAE
from sae_core.saes.batch import Batch, Losses
from sae_core.saes.batchtopk import BatchTopK
from sae_core.saes.config import SAEConfig
from sae_core.saes.gated import Gated
from sae_core.saes.jumprelu import JumpReLU
from sae_core.saes.matryoshka import MatryoshkaBatchTopK
from sae_core.saes.standard import Standard
from sae_core.saes.topk import TopK

ARCHITECTURES: dict[str, type[SAE]] = {
    sae.architecture: sae for sae in (Standard, Gated, JumpReLU, TopK, BatchTopK, MatryoshkaBatchTopK)
}

__all__ = [
    "ARCHITECTURES",
    "SAE",
    "Batch",
    "BatchTopK",
    "Gated",
    "JumpReLU",
    "Losses",
    "MatryoshkaBatchTopK",
    "SAEConfig",
    "Standard",
    "TopK",
]
