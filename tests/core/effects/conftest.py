"""A tiny model's held-out text and an SAE of random weights on it."""

from pathlib import Path

import pytest

from sae_core.activations import ActivationCache
from sae_core.corpora import Corpus, Sequences, pack
from sae_core.effects import HeldOut
from sae_core.models import HookPoint, LanguageModel
from sae_core.saes import SAE
from tests.core.interventions.conftest import random_sae

HOOK = HookPoint("resid_post", 1)


@pytest.fixture(scope="module")
def sae() -> SAE:
    """A TopK SAE of 48 features, 6 of them active on each token."""
    return random_sae("topk").for_inference()


@pytest.fixture(scope="module")
def short_sequences(corpus: Corpus, model: LanguageModel) -> Sequences:
    """Sequences of 32 tokens, so that several are held out."""
    return pack(corpus, model, length=32, seed=0)


@pytest.fixture(scope="module")
def text(
    tmp_path_factory: pytest.TempPathFactory, model: LanguageModel, sae: SAE, short_sequences: Sequences
) -> HeldOut:
    """All of the held-out text."""
    folder: Path = tmp_path_factory.mktemp("activations")
    cache = ActivationCache.build(model, HOOK, short_sequences, folder)
    return HeldOut(sae, cache, short_sequences, max_tokens=10_000)
