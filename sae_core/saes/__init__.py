"""Sparse autoencoders: one file an architecture."""

from sae_core.saes.base import SAE, Losses, SAEConfig

ARCHITECTURES: dict[str, type[SAE]] = {}

__all__ = ["ARCHITECTURES", "SAE", "Losses", "SAEConfig"]
