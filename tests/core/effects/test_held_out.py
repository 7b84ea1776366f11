"""Windows and active features are those that encoding the text gives."""

import numpy as np
import torch

from sae_core.effects import HeldOut
from sae_core.saes import SAE


def test_windows_hold_every_activation_of_counted_tokens(text: HeldOut, sae: SAE) -> None:
    f = sae.encode(text.activations).numpy() * text.counted[..., None]
    for feature in range(sae.d_sae):
        found = np.zeros(text.counted.shape, dtype=np.float32)
        for window in text.windows(feature, 16):
            assert window.start % 16 == 0
            assert ((window.positions >= window.start) & (window.positions < window.start + 16)).all()
            found[window.sequence, window.positions] = window.f
        np.testing.assert_allclose(found, f[..., feature], atol=1e-5)
        assert text.counts()[feature] == (f[..., feature] > 0).sum()


def test_active_features_of_a_token_have_the_lengths_that_they_add(text: HeldOut, sae: SAE) -> None:
    f = sae.encode(text.activations[2, 5])
    features, masses = text.active_at(2, 5)
    assert set(features.tolist()) == set(f.nonzero()[:, 0].tolist())
    expected = (f[torch.from_numpy(features)][:, None] * sae.W_dec[torch.from_numpy(features)]).norm(dim=1)
    np.testing.assert_allclose(masses, expected.numpy(), rtol=1e-5)


def test_only_held_out_sequences_are_read(text: HeldOut) -> None:
    assert (text.numbers % 20 == 1).all()
    assert text.tokens == text.counted.sum()
