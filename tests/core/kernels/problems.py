"""Random problems of odd sizes."""

import torch

SHAPES = [(1, 1, 7, 1), (3, 5, 130, 4), (33, 16, 64, 64), (5, 100, 517, 40), (65, 33, 130, 9)]
"""Batch, d_in, d_sae, k."""


BF16 = 2**-7
"""How far a bfloat16 may be off as a share of it: a GPU rounds (2^-9), the interpreter cuts off (below 2^-7)."""


def random(*shape, seed, device="cpu", dtype=torch.float32):
    numbers = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return numbers.to(device, dtype)


def tied(*shape, seed, device="cpu", dtype=torch.float32):
    """Small whole numbers, of which many are the same and half are not positive."""
    numbers = torch.randint(-4, 6, shape, generator=torch.Generator().manual_seed(seed))
    return numbers.to(device, dtype)


def close(actual, expected, tolerance=1e-5):
    """Whether two tensors agree to a share of the larger one's largest entry."""
    expected = expected.detach()
    scale = max(1e-30, float(expected.abs().max())) if expected.numel() else 1.0
    torch.testing.assert_close(actual.double().cpu(), expected.double().cpu(), rtol=0, atol=tolerance * scale)
