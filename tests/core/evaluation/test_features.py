import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from sae_core.evaluation import evaluate, features
from sae_core.evaluation.features import FeatureCounts, dead, dense, splitting_candidates
from sae_core.saes import SAE, JumpReLU
from sae_core.saes.jumprelu import JumpReLUConfig
from tests.core.evaluation.dictionaries import D_IN, HOOK, held_out_tokens

TOKENS = 2000
PARENT, PART, OUTSIDE, TWIN, RARE, ELSEWHERE, DENSE, UNDER_DENSE, HALF, DEAD, APART = range(11)
ACTIVE = {
    PARENT: range(100),
    PART: range(20),
    OUTSIDE: [*range(40, 60), *range(1100, 1130)],  # 40 % in the parent
    TWIN: range(100),
    RARE: range(60, 69),
    ELSEWHERE: range(30),  # in the parent, but of another direction
    DENSE: range(201),
    UNDER_DENSE: range(150, 190),
    HALF: [*range(20, 40), *range(1000, 1020)],
    DEAD: [],
    APART: range(1500, 1530),  # never with the parent
}


def planted():
    """A dictionary whose features stand close to a common direction, but for two: and their activations."""
    f = torch.zeros(TOKENS, len(ACTIVE))
    for feature, tokens in ACTIVE.items():
        f[list(tokens), feature] = 0.5
    sae = JumpReLU(JumpReLUConfig(d_in=16, d_sae=len(ACTIVE)))
    with torch.no_grad():
        sae.W_dec.copy_(torch.eye(len(ACTIVE), 16))
        near = [PARENT, PART, OUTSIDE, TWIN, RARE, HALF, DEAD, APART]
        sae.W_dec[near, 15] = 1.5  # cosine 1.5² / (1 + 1.5²) = 0.69
        sae.W_dec[[DENSE, UNDER_DENSE], 14] = 1.5
    return sae, f


def counted(sae, f, batch=TOKENS):
    counts = FeatureCounts.empty(sae)
    for start in range(0, len(f), batch):
        counts.add(f[start : start + batch])
    return counts


def test_planted_features_are_found():
    counts = counted(*planted())
    assert np.flatnonzero(dead(counts)).tolist() == [DEAD]
    assert np.flatnonzero(dense(counts)).tolist() == [DENSE]
    assert np.flatnonzero(splitting_candidates(counts)).tolist() == [PART, HALF]


def test_just_a_tenth_of_the_tokens_is_not_dense():
    sae, f = planted()
    f[200, DENSE] = 0
    counts = counted(sae, f)
    assert not dense(counts).any()
    assert np.flatnonzero(splitting_candidates(counts)).tolist() == [PART, UNDER_DENSE, HALF]


def test_a_candidate_is_active_on_at_most_half_as_many_tokens():
    sae, f = planted()
    f[:, PART] = 0
    f[:50, PART] = 1
    assert splitting_candidates(counted(sae, f))[PART]
    f[50, PART] = 1
    assert not splitting_candidates(counted(sae, f))[PART]


def test_ten_tokens_make_a_candidate():
    sae, f = planted()
    f[69, RARE] = 1
    assert splitting_candidates(counted(sae, f))[RARE]


def test_joint_counts_are_exact_however_they_are_cut(monkeypatch):
    sae, _ = planted()
    f = (torch.rand(TOKENS, len(ACTIVE), generator=torch.Generator().manual_seed(0)) - 0.7).relu()
    monkeypatch.setattr(features, "BLOCK_BYTES", 3 * 130)
    counts = counted(sae, f, batch=130)
    active = (f > 0).long()
    assert counts.pairs.shape[1] == 8 * 7 + 2
    assert counts.active.tolist() == active.sum(dim=0).tolist()
    assert counts.joint.tolist() == (active.T @ active)[counts.pairs[0], counts.pairs[1]].tolist()
    assert counts.tokens == TOKENS


def test_no_block_of_pairs_is_larger_than_stated(monkeypatch):
    sae, f = planted()
    monkeypatch.setattr(features, "BLOCK_BYTES", 3 * 130)
    largest = []
    original = torch.Tensor.__iand__
    monkeypatch.setattr(torch.Tensor, "__iand__", lambda a, b: largest.append(a.nbytes) or original(a, b))
    counted(sae, f, batch=130)
    assert max(largest) == 3 * 130


def test_the_largest_cosine_is_that_of_the_dense_matrix():
    sae = JumpReLU(JumpReLUConfig(d_in=8, d_sae=300))
    with torch.no_grad():
        sae.W_dec.copy_(torch.randn(300, 8, generator=torch.Generator().manual_seed(1)))
        sae.W_dec[7] = 3 * sae.W_dec[200]
        unit = normalize(sae.W_dec.double())
    cosines = (unit @ unit.T).fill_diagonal_(-1)
    largest = cosines.max(dim=1).values.numpy()
    assert FeatureCounts.empty(sae).max_cosine == pytest.approx(largest, abs=1e-5)
    assert FeatureCounts.empty(sae).max_cosine[7] == pytest.approx(1, abs=1e-6)


def test_evaluation_counts_features_as_a_loop_over_them_does(model, sequences):
    sae = JumpReLU(JumpReLUConfig(d_in=D_IN, d_sae=96))
    token_ids, is_counted = held_out_tokens(sequences)
    x = model.activations(token_ids, HOOK)[is_counted]
    SAE.initialise(sae, x, seed=0)
    sae = sae.for_inference()
    sae.W_enc[:, 48:] = sae.W_enc[:, :48]  # the same again, above a higher threshold
    sae.W_dec[48:] = sae.W_dec[:48] + 0.1 * torch.randn(48, D_IN, generator=torch.Generator().manual_seed(5))
    pre = (x - sae.b_dec) @ sae.W_enc
    quantiles = torch.linspace(0.85, 1, 48)
    sae.threshold.copy_(
        torch.stack([pre[:, i].quantile(q) for i, q in enumerate([*quantiles, *(0.7 + 0.3 * quantiles)])])
    )
    result = evaluate(model, sae, HOOK, sequences)

    active = (sae.encode(x) > 0).long()
    count, joint = active.sum(dim=0).tolist(), (active.T @ active).tolist()
    unit = sae.W_dec / sae.W_dec.norm(dim=1, keepdim=True)
    cosine = (unit @ unit.T).fill_diagonal_(-2)
    candidates = 0
    for i in range(96):
        near = [j for j in cosine[i].topk(10).indices.tolist() if cosine[i, j] >= 0.3 and count[j] <= 0.1 * len(x)]
        parts = [j for j in near if joint[i][j] >= 0.5 * count[i] and count[j] >= 2 * count[i]]
        candidates += count[i] >= 10 and len(parts) > 0
    assert result.splitting_candidates == candidates > 0
    assert result.dead == count.count(0) > 0
    assert result.dense == sum(number > 0.1 * len(x) for number in count) > 0
    assert result.decoder_redundancy == pytest.approx(float(cosine.max(dim=1).values.mean()), rel=1e-6)
    low, high = result.intervals["decoder_redundancy"]
    spread = float(cosine.max(dim=1).values.std()) / 96**0.5
    assert (high - low) / (2 * 1.96 * spread) == pytest.approx(1, rel=0.2)
