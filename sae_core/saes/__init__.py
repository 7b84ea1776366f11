"""Sparse autoencoders: one file an architecture, and one line here."""

from sae_core.saes.base import SAE, Losses, SAEConfig
from sae_core.saes.batchtopk import BatchTopK
from sae_core.saes.jumprelu import JumpReLU
from sae_core.saes.standard import Standard
from sae_core.saes.topk import TopK

ARCHITECTURES: dict[str, type[SAE]] = {sae.architecture: sae for sae in (Standard, TopK, BatchTopK, JumpReLU)}

__all__ = ["ARCHITECTURES", "SAE", "BatchTopK", "JumpReLU", "Losses", "SAEConfig", "Standard", "TopK"]
