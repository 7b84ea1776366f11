import dataclasses
import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, softmax

from sae_core.activations import ActivationCache
from sae_core.errors import CheckpointError, CorpusError, SAEError
from sae_core.evaluation import evaluate
from sae_core.models import HookPoint
from sae_core.saes import JumpReLU, SAEConfig, Standard, TopK
from sae_core.saes.standard import StandardConfig
from sae_core.saes.topk import TopKConfig

HOOK = HookPoint("resid_post", 1)
D_IN = 32


def held_out_tokens(sequences):
    """Token ids and counted positions of the held-out sequences."""
    held_out = sequences.is_validation()
    return torch.from_numpy(sequences.token_ids[held_out]).long(), torch.from_numpy(sequences.counted[held_out])


@pytest.fixture(scope="module")
def held_out(model, sequences):
    """Counted held-out activations, in float64."""
    token_ids, counted = held_out_tokens(sequences)
    return model.activations(token_ids, HOOK)[counted].double()


def identity():
    """A dictionary with a feature for each direction of each dimension: x̂ = x."""
    sae = Standard(StandardConfig(d_in=D_IN, d_sae=2 * D_IN))
    with torch.no_grad():
        sae.W_dec.copy_(torch.cat([torch.eye(D_IN), -torch.eye(D_IN)]))
        sae.W_enc.copy_(sae.W_dec.t())
    return sae


def constant(mean):
    """A dictionary of which no feature is ever active: x̂ = mean."""
    sae = Standard(StandardConfig(d_in=D_IN, d_sae=8))
    with torch.no_grad():
        sae.b_dec.copy_(mean)
    return sae


def random_sae():
    sae = TopK(TopKConfig(d_in=D_IN, d_sae=64, k=5))
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    return sae


def test_an_identity_dictionary_scores_one(model, sequences, held_out):
    result = evaluate(model, identity(), HOOK, sequences)
    assert result.tokens == len(held_out)
    assert result.explained_variance == pytest.approx(1, abs=1e-9)
    assert result.cosine == pytest.approx(1)
    assert result.l2_ratio == pytest.approx(1)
    assert result.mse == pytest.approx(0, abs=1e-9)
    assert result.l0 == D_IN  # each dimension is positive or negative
    assert result.dead_fraction == 0
    assert result.ce_sae == pytest.approx(result.ce_clean, abs=1e-5)
    assert result.ce_recovered_mean == pytest.approx(1, abs=1e-4)
    assert result.ce_recovered_zero == pytest.approx(1, abs=1e-4)
    assert result.kl == pytest.approx(0, abs=1e-5)


def test_predicting_the_mean_scores_zero(model, sequences, held_out):
    result = evaluate(model, constant(held_out.mean(dim=0)), HOOK, sequences)
    assert result.explained_variance == pytest.approx(0, abs=1e-6)
    assert result.ce_sae == pytest.approx(result.ce_mean_ablated, abs=1e-5)
    assert result.ce_recovered_mean == pytest.approx(0, abs=1e-4)
    assert (result.l0, result.dead_fraction) == (0, 1)
    assert result.kl > 0


def test_predicting_zero_recovers_nothing_from_zero_ablation(model, sequences):
    result = evaluate(model, constant(torch.zeros(D_IN)), HOOK, sequences)
    assert result.ce_recovered_zero == pytest.approx(0, abs=1e-4)
    assert (result.cosine, result.l2_ratio) == (0, 0)


def test_reconstruction_metrics_are_their_formulas(model, sequences, held_out):
    sae = random_sae()
    result = evaluate(model, sae, HOOK, sequences)
    with torch.no_grad():
        f, x, reconstructed = sae.encode(held_out.float()), held_out, sae(held_out.float()).double()
    error = (x - reconstructed).square().sum(dim=1)
    assert result.l0 == float((f > 0).sum(dim=1).double().mean())
    assert result.mse == pytest.approx(float(error.mean()), rel=1e-5)
    variance = (x - x.mean(dim=0)).square().sum(dim=1).mean()
    assert result.explained_variance == pytest.approx(float(1 - error.mean() / variance), rel=1e-5)
    assert result.l2_ratio == pytest.approx(float((reconstructed.norm(dim=1) / x.norm(dim=1)).mean()), rel=1e-5)
    cosines = (x * reconstructed).sum(dim=1) / (x.norm(dim=1) * reconstructed.norm(dim=1))
    assert result.cosine == pytest.approx(float(cosines.mean()), rel=1e-5)
    assert result.dead_fraction == float((~(f > 0).any(dim=0)).double().mean())


def test_prediction_metrics_are_their_formulas(model, sequences):
    """One sequence at a time, only the replaced activations of counted tokens, only counted targets."""
    sae = random_sae()
    result = evaluate(model, sae, HOOK, sequences)
    losses, divergences = {"clean": [], "sae": []}, []
    for token_ids, counted in zip(*held_out_tokens(sequences), strict=True):

        def splice(x, counted=counted):
            with torch.no_grad():
                return torch.where(counted[None, :, None], sae(x[0])[None], x)

        clean, spliced = model.logits(token_ids[None])[0], model.logits(token_ids[None], HOOK, splice)[0]
        for position in range(len(token_ids) - 1):
            if counted[position] and counted[position + 1]:
                for name, logits in (("clean", clean), ("sae", spliced)):
                    losses[name].append(float(cross_entropy(logits[position], token_ids[position + 1])))
                p, q = softmax(clean[position].double(), 0), softmax(spliced[position].double(), 0)
                divergences.append(float((p * (p / q).log()).sum()))
    assert result.ce_tokens == len(divergences)
    assert result.ce_clean == pytest.approx(np.mean(losses["clean"]), rel=1e-5)
    assert result.ce_sae == pytest.approx(np.mean(losses["sae"]), rel=1e-5)
    assert result.kl == pytest.approx(np.mean(divergences), rel=1e-4)
    cost = result.ce_zero_ablated - result.ce_clean
    assert result.ce_recovered_zero == pytest.approx((result.ce_zero_ablated - result.ce_sae) / cost)


def test_special_tokens_and_padding_do_not_enter(model, sequences):
    """What stands after the last counted token of a sequence changes nothing."""
    sae = random_sae()
    spoiled = sequences.token_ids.copy()
    for row, counted in enumerate(sequences.counted):
        last = int(np.flatnonzero(counted)[-1])
        spoiled[row, last + 1 :] = 77
    changed = dataclasses.replace(sequences, token_ids=spoiled)
    assert (spoiled != sequences.token_ids)[sequences.is_validation()].any()
    assert dataclasses.asdict(evaluate(model, sae, HOOK, changed)) == pytest.approx(
        dataclasses.asdict(evaluate(model, sae, HOOK, sequences)), rel=1e-5
    )


def test_a_cache_gives_the_same_as_the_model(model, sequences, tmp_path):
    cache = ActivationCache.build(model, HOOK, sequences, tmp_path)
    direct = dataclasses.asdict(evaluate(model, random_sae(), HOOK, sequences))
    cached = dataclasses.asdict(evaluate(model, random_sae(), HOOK, sequences, activations=cache))
    assert cached == pytest.approx(direct, rel=1e-5)


def test_max_tokens_bounds_the_passes_of_the_whole_model(model, sequences, tmp_path):
    cache = ActivationCache.build(model, HOOK, sequences, tmp_path)
    result = evaluate(model, random_sae(), HOOK, sequences, activations=cache, max_tokens=40)
    assert 40 <= result.ce_tokens <= 40 + sequences.length
    assert result.tokens == cache.validation_tokens > result.ce_tokens


def test_progress_ends_where_it_said(model, sequences):
    reports = []
    evaluate(model, random_sae(), HOOK, sequences, progress=lambda *report: reports.append(report))
    done = [report[0] for report in reports]
    assert done == sorted(done)
    assert {report[1] for report in reports} == {reports[-1][0]}


def test_any_form_is_measured_as_inference(model, sequences):
    sae = random_sae()
    scaled = random_sae()
    with torch.no_grad():
        scaled.input_scale.fill_(4)
        scaled.b_enc.mul_(4)
        scaled.b_dec.mul_(4)
    assert dataclasses.asdict(evaluate(model, scaled, HOOK, sequences)) == pytest.approx(
        dataclasses.asdict(evaluate(model, sae, HOOK, sequences)), rel=1e-4
    )


def test_a_width_that_does_not_fit_is_refused(model, sequences):
    with pytest.raises(CheckpointError, match=r"reads 16 dimensions but resid_post\.1 of .* has 32"):
        evaluate(model, JumpReLU(SAEConfig(d_in=16, d_sae=8)), HOOK, sequences)


def test_nothing_held_out_is_refused(model, sequences):
    first = dataclasses.replace(
        sequences,
        token_ids=sequences.token_ids[:1],
        counted=sequences.counted[:1],
        document_of=sequences.document_of[:1],
    )
    with pytest.raises(CorpusError, match="held out"):
        evaluate(model, random_sae(), HOOK, first)
    nothing = dataclasses.replace(sequences, counted=np.zeros_like(sequences.counted))
    with pytest.raises(CorpusError, match="held out"):
        evaluate(model, random_sae(), HOOK, nothing)


def test_nan_is_refused(model, sequences):
    sae = random_sae()
    with torch.no_grad():
        sae.W_dec[:, 3] = math.nan
    with pytest.raises(SAEError, match="NaN"):
        evaluate(model, sae, HOOK, sequences)
