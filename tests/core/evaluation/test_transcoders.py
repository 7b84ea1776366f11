import copy

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, softmax

from sae_core.activations import ActivationCache
from sae_core.errors import ArtifactError, CheckpointError, ModelError
from sae_core.evaluation import evaluate
from sae_core.models import HookPoint
from sae_core.saes import Standard
from sae_core.saes.standard import StandardConfig
from tests.core.evaluation.dictionaries import (
    D_IN,
    HOOK,
    MLP_IN,
    MLP_OUT,
    constant,
    flat,
    held_out_tokens,
    identity,
    random_sae,
)


@pytest.fixture(params=["llama", "gpt2"])
def lm(request, load_family):
    return load_family(request.param)


def held_out(lm, sequences, hook):
    token_ids, counted = held_out_tokens(sequences)
    return lm.activations(token_ids, hook)[counted]


def mlp(lm):
    """Of layer 1."""
    inner = lm.hf_model.base_model
    return (inner.h if hasattr(inner, "h") else inner.layers)[1].mlp


def test_a_transcoder_that_computes_the_layer_scores_one(lm, sequences):
    """A transcoder whose decoder is the MLP itself: the passes of the whole model are the clean one."""
    layer = copy.deepcopy(mlp(lm))  # without the hooks that the passes hang on the model's own

    class Layer(Standard):
        def decode(self, f, x=None):
            return layer(x)

    sae = Layer(StandardConfig(d_in=D_IN, d_sae=8, d_out=D_IN))
    result = evaluate(lm, sae, MLP_IN, sequences, target=MLP_OUT)
    assert result.explained_variance == pytest.approx(1, abs=1e-6)
    assert result.cosine == pytest.approx(1)
    assert result.l2_ratio == pytest.approx(1)
    assert result.ce_recovered_mean == pytest.approx(1, abs=1e-4)
    assert result.kl == pytest.approx(0, abs=1e-5)
    assert result.intervals["explained_variance"] == pytest.approx((1, 1), abs=1e-6)


def test_a_transcoder_that_returns_its_input_is_measured_against_the_target(lm, sequences):
    sae = Standard(StandardConfig(d_in=D_IN, d_sae=2 * D_IN, d_out=D_IN))
    sae.load_state_dict(identity().state_dict())
    x, y = held_out(lm, sequences, MLP_IN).double(), held_out(lm, sequences, MLP_OUT).double()
    result = evaluate(lm, sae, MLP_IN, sequences, target=MLP_OUT)
    error, variance = (x - y).square().sum(dim=1).mean(), (y - y.mean(dim=0)).square().sum(dim=1).mean()
    assert result.mse == pytest.approx(float(error), rel=1e-5)
    assert result.explained_variance == pytest.approx(float(1 - error / variance), rel=1e-5)
    assert result.l2_ratio == pytest.approx(float((x.norm(dim=1) / y.norm(dim=1)).mean()), rel=1e-5)


def test_predicting_the_targets_mean_scores_zero(lm, sequences):
    mean = held_out(lm, sequences, MLP_OUT).mean(dim=0)
    result = evaluate(lm, constant(mean, d_out=D_IN), MLP_IN, sequences, target=MLP_OUT)
    assert result.explained_variance == pytest.approx(0, abs=1e-6)
    assert result.ce_sae == pytest.approx(result.ce_mean_ablated, abs=1e-5)
    assert result.ce_recovered_mean == pytest.approx(0, abs=1e-3)


def test_predictions_read_what_it_writes_at_the_target(lm, sequences):
    """Spliced in by a hook of PyTorch's own, one sequence at a time."""
    sae = random_sae(d_out=D_IN, skip=True)
    losses, divergences = [], []
    result = evaluate(lm, sae, MLP_IN, sequences, target=MLP_OUT)
    for token_ids, counted in zip(*held_out_tokens(sequences), strict=True):

        def splice(module, inputs, output, counted=counted):
            return torch.where(counted[None, :, None], sae(inputs[0]), output)

        with torch.no_grad():
            clean = lm.hf_model(token_ids[None]).logits[0]
            handle = mlp(lm).register_forward_hook(splice)
            spliced = lm.hf_model(token_ids[None]).logits[0]
            handle.remove()
        for position in np.flatnonzero(counted[:-1] & counted[1:]):
            losses.append(float(cross_entropy(spliced[position], token_ids[position + 1])))
            p, q = softmax(clean[position].double(), 0), softmax(spliced[position].double(), 0)
            divergences.append(float((p * (p / q).log()).sum()))
    assert result.ce_sae == pytest.approx(np.mean(losses), rel=1e-5)
    assert result.kl == pytest.approx(np.mean(divergences), rel=1e-4)


def test_a_cache_of_both_points_gives_the_same_as_the_model(lm, sequences, tmp_path):
    sae = random_sae(d_out=D_IN, skip=True)
    cache = ActivationCache.build(lm, MLP_IN, sequences, tmp_path, target=MLP_OUT)
    direct = flat(evaluate(lm, sae, MLP_IN, sequences, target=MLP_OUT))
    cached = flat(evaluate(lm, sae, MLP_IN, sequences, target=MLP_OUT, activations=cache))
    assert cached == pytest.approx(direct, rel=1e-5)
    # An SAE of the input reads the same cache.
    alone = flat(evaluate(lm, random_sae(), MLP_IN, sequences))
    assert flat(evaluate(lm, random_sae(), MLP_IN, sequences, activations=cache)) == pytest.approx(alone, rel=1e-5)


def test_points_of_the_wrong_width_are_refused(lm, sequences, tmp_path):
    transcoder = random_sae(d_out=D_IN)
    with pytest.raises(CheckpointError, match="Name it as the target"):
        evaluate(lm, transcoder, MLP_IN, sequences)
    with pytest.raises(CheckpointError, match=r"not mlp_out\.1"):
        evaluate(lm, random_sae(), MLP_IN, sequences, target=MLP_OUT)
    with pytest.raises(CheckpointError, match=r"writes 16 dimensions but mlp_out\.1 of .* has 32"):
        evaluate(lm, constant(torch.zeros(16), d_out=16), MLP_IN, sequences, target=MLP_OUT)
    with pytest.raises(ModelError, match="does not come before"):
        evaluate(lm, transcoder, HookPoint("mlp_in", 2), sequences, target=MLP_OUT)
    cache = ActivationCache.build(lm, HOOK, sequences, tmp_path)
    with pytest.raises(ArtifactError, match=r"not those at mlp_in\.1 and mlp_out\.1"):
        evaluate(lm, transcoder, MLP_IN, sequences, target=MLP_OUT, activations=cache)
