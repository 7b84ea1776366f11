import dataclasses
import gc
import json
import math

import numpy as np
import pytest
import torch
from torch.nn import Parameter
from torch.nn.functional import cross_entropy, softmax

from sae_core.activations import ActivationCache
from sae_core.activations.order import validation_positions
from sae_core.errors import CheckpointError, CorpusError, SAEError
from sae_core.evaluation import evaluate, measure
from sae_core.evaluation.resampling import REPLICATES
from sae_core.saes import JumpReLU, TopK
from sae_core.saes.jumprelu import JumpReLUConfig
from tests.core.evaluation.dictionaries import D_IN, HOOK, constant, flat, held_out_tokens, identity, random_sae


@pytest.fixture(scope="module")
def held_out(model, sequences):
    """Counted held-out activations, in float64."""
    token_ids, counted = held_out_tokens(sequences)
    return model.activations(token_ids, HOOK)[counted].double()


@pytest.fixture(scope="module")
def cache(model, sequences, tmp_path_factory):
    return ActivationCache.build(model, HOOK, sequences, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def sequence(sequences):
    """The number of each held-out token's sequence."""
    return validation_positions(sequences) // sequences.length


def replicates(sequence, value):
    """What `value` gives for each replicate, of its tokens' numbers: a sequence's as often as it is drawn."""
    drawn = {number: np.random.default_rng((0, number)).poisson(1, REPLICATES) for number in np.unique(sequence)}
    times = np.stack([drawn[number] for number in sequence], axis=1)
    return [value(np.repeat(np.arange(len(sequence)), row)) for row in times]


def ends(values):
    return pytest.approx(tuple(np.percentile(values, [2.5, 97.5])), rel=1e-5)


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
    assert result.intervals["l0"] == (D_IN, D_IN)
    assert result.intervals["explained_variance"] == pytest.approx((1, 1), abs=1e-9)
    assert result.intervals["ce_recovered_mean"] == pytest.approx((1, 1), abs=1e-4)
    assert result.intervals["kl"] == pytest.approx((0, 0), abs=1e-5)


def test_predicting_the_mean_scores_zero(model, sequences, held_out):
    result = evaluate(model, constant(held_out.mean(dim=0)), HOOK, sequences)
    assert result.explained_variance == pytest.approx(0, abs=1e-6)
    assert result.ce_sae == pytest.approx(result.ce_mean_ablated, abs=1e-5)
    assert result.ce_recovered_mean == pytest.approx(0, abs=1e-4)
    assert (result.l0, result.dead, result.dead_fraction) == (0, 8, 1)
    assert result.kl > 0
    low, high = result.intervals["explained_variance"]
    assert low < high < 0  # a replicate's own mean always explains more
    assert result.intervals["dead"] == (8, 8)


def test_predicting_zero_recovers_nothing_from_zero_ablation(model, sequences):
    result = evaluate(model, constant(torch.zeros(D_IN)), HOOK, sequences)
    assert result.ce_recovered_zero == pytest.approx(0, abs=1e-4)
    assert (result.cosine, result.l2_ratio) == (0, 0)


def test_reconstruction_metrics_are_their_formulas(model, sequences, held_out, sequence):
    sae = random_sae()
    result = evaluate(model, sae, HOOK, sequences)
    with torch.no_grad():
        f, x, reconstructed = sae.encode(held_out.float()), held_out, sae(held_out.float()).double()
    error = (x - reconstructed).square().sum(dim=1)
    assert result.l0 == float((f > 0).sum(dim=1).double().mean())
    assert result.mse == pytest.approx(float(error.mean()), rel=1e-5)

    def explained(rows):
        variance = (x[rows] - x[rows].mean(dim=0)).square().sum(dim=1).mean()
        return float(1 - error[rows].mean() / variance)

    assert result.explained_variance == pytest.approx(explained(slice(None)), rel=1e-5)
    assert result.intervals["explained_variance"] == ends(replicates(sequence, explained))
    assert result.intervals["mse"] == ends(replicates(sequence, lambda rows: float(error[rows].mean())))
    assert result.l2_ratio == pytest.approx(float((reconstructed.norm(dim=1) / x.norm(dim=1)).mean()), rel=1e-5)
    cosines = (x * reconstructed).sum(dim=1) / (x.norm(dim=1) * reconstructed.norm(dim=1))
    assert result.cosine == pytest.approx(float(cosines.mean()), rel=1e-5)
    assert result.intervals["cosine"] == ends(replicates(sequence, lambda rows: float(cosines[rows].mean())))
    density = (f > 0).double().mean(dim=0)
    assert (result.dead, result.dense) == (int((density == 0).sum()), int((density > 0.1).sum()))
    assert result.dead_fraction == result.dead / 64


def test_prediction_metrics_are_their_formulas(model, sequences):
    """One sequence at a time, only the replaced activations of counted tokens, only counted targets."""
    sae = random_sae()
    result = evaluate(model, sae, HOOK, sequences)
    losses, divergences, number_of = {"clean": [], "sae": [], "zero": []}, [], []
    numbers = np.flatnonzero(sequences.is_validation())
    for number, token_ids, counted in zip(numbers, *held_out_tokens(sequences), strict=True):

        def splice(function, token_ids=token_ids, counted=counted):
            def replace(x, _):
                with torch.no_grad():
                    return torch.where(counted[None, :, None], function(x[0])[None], x)

            return model.logits(token_ids[None], HOOK, replace)[0]

        read = {"clean": model.logits(token_ids[None])[0], "sae": splice(sae), "zero": splice(torch.zeros_like)}
        for position in range(len(token_ids) - 1):
            if counted[position] and counted[position + 1]:
                number_of.append(number)
                for name, logits in read.items():
                    losses[name].append(float(cross_entropy(logits[position], token_ids[position + 1])))
                p, q = (softmax(read[name][position].double(), 0) for name in ("clean", "sae"))
                divergences.append(float((p * (p / q).log()).sum()))
    clean, spliced, zero, divergence = (np.array(values) for values in (*losses.values(), divergences))

    def recovered(rows):
        return (zero[rows].mean() - spliced[rows].mean()) / (zero[rows].mean() - clean[rows].mean())

    assert result.ce_tokens == len(divergences)
    assert result.ce_clean == pytest.approx(clean.mean(), rel=1e-5)
    assert result.ce_sae == pytest.approx(spliced.mean(), rel=1e-5)
    assert result.kl == pytest.approx(divergence.mean(), rel=1e-4)
    assert result.ce_recovered_zero == pytest.approx(recovered(slice(None)), rel=1e-3)
    number_of = np.array(number_of)
    assert result.intervals["ce_sae"] == ends(replicates(number_of, lambda rows: spliced[rows].mean()))
    low, high = np.percentile(replicates(number_of, recovered), [2.5, 97.5])
    assert result.intervals["ce_recovered_zero"] == pytest.approx((low, high), rel=1e-3)


def test_an_sae_that_normalises_each_token_is_measured_with_it(model, sequences, held_out):
    sae = random_sae(normalize_activations="layer_norm")
    with torch.no_grad():
        error = (held_out - sae(held_out.float())).square().sum(dim=1)
    result = evaluate(model, sae, HOOK, sequences)
    assert result.mse == pytest.approx(float(error.mean()), rel=1e-5)
    assert result.mse != pytest.approx(evaluate(model, random_sae(), HOOK, sequences).mse, rel=1e-2)


def test_special_tokens_and_padding_do_not_enter(model, sequences):
    """What stands after the last counted token of a sequence changes nothing."""
    sae = random_sae()
    spoiled = sequences.token_ids.copy()
    for row, counted in enumerate(sequences.counted):
        last = int(np.flatnonzero(counted)[-1])
        spoiled[row, last + 1 :] = 77
    changed = dataclasses.replace(sequences, token_ids=spoiled)
    assert (spoiled != sequences.token_ids)[sequences.is_validation()].any()
    assert flat(evaluate(model, sae, HOOK, changed)) == pytest.approx(
        flat(evaluate(model, sae, HOOK, sequences)), rel=1e-5
    )


def test_a_cache_gives_the_same_as_the_model(model, sequences, cache):
    direct = flat(evaluate(model, random_sae(), HOOK, sequences))
    assert flat(evaluate(model, random_sae(), HOOK, sequences, activations=cache)) == pytest.approx(direct, rel=1e-5)


class Watched(TopK):
    """Notes how many tokens are encoded at once."""

    most = 0

    def encode(self, x):
        Watched.most = max(Watched.most, len(x))
        return super().encode(x)


@pytest.fixture
def watched():
    Watched.most = 0
    sae = Watched(random_sae().config)
    sae.load_state_dict(random_sae().state_dict())
    return sae


@pytest.mark.parametrize("cached", [True, False])
def test_metrics_do_not_depend_on_batches(model, sequences, cache, watched, monkeypatch, cached):
    """Of 7 tokens, so that every sequence is cut; the model's passes take a sequence each."""
    activations = cache if cached else None
    whole = flat(evaluate(model, random_sae(), HOOK, sequences, activations=activations))
    monkeypatch.setattr(measure, "BATCH_TOKENS", 7)
    assert flat(evaluate(model, watched, HOOK, sequences, activations=activations)) == pytest.approx(whole, rel=1e-5)
    assert Watched.most == 7


def test_sequences_without_counted_tokens_are_passed_over(model, sequences, monkeypatch):
    monkeypatch.setattr(measure, "BATCH_TOKENS", 7)
    numbers = np.flatnonzero(sequences.is_validation())
    counted = sequences.counted.copy()
    counted[numbers[[0, 4]]] = False
    passes = []
    logits = model.logits
    monkeypatch.setattr(model, "logits", lambda *given, **options: passes.append(1) or logits(*given, **options))
    result = evaluate(model, random_sae(), HOOK, dataclasses.replace(sequences, counted=counted))
    assert result.tokens == counted[numbers].sum()
    assert len(passes) == 4 * (len(numbers) - 2)


def test_max_tokens_bounds_the_passes_of_the_whole_model(model, sequences, cache):
    result = evaluate(model, random_sae(), HOOK, sequences, activations=cache, max_tokens=40)
    assert 40 <= result.ce_tokens <= 40 + sequences.length
    assert result.tokens == cache.validation_tokens > result.ce_tokens


def test_progress_ends_at_the_total(model, sequences):
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
        scaled.output_scale.fill_(4)
        scaled.b_enc.mul_(4)
        scaled.b_dec.mul_(4)
    assert flat(evaluate(model, scaled, HOOK, sequences)) == pytest.approx(
        flat(evaluate(model, sae, HOOK, sequences)), rel=1e-4
    )


def test_the_seed_decides_the_intervals_and_nothing_else(model, sequences):
    first, again, other = (evaluate(model, random_sae(), HOOK, sequences, seed=seed) for seed in (0, 0, 1))
    assert flat(first) == flat(again)
    assert other.intervals.keys() == first.intervals.keys()
    assert all(other.intervals[name] != first.intervals[name] for name in ("mse", "kl", "dense", "decoder_redundancy"))
    assert dataclasses.replace(other, intervals={}) == dataclasses.replace(first, intervals={})


def test_a_single_sequence_has_no_interval_but_over_features(model, sequences):
    result = evaluate(model, random_sae(), HOOK, sequences, max_tokens=1)
    assert result.ce_tokens <= sequences.length
    features = ["dead", "dead_fraction", "dense", "decoder_redundancy", "splitting_candidates"]
    assert list(result.intervals) == features


def test_an_evaluation_is_stored_as_json(model, sequences):
    result = evaluate(model, random_sae(), HOOK, sequences)
    stored = json.loads(json.dumps(dataclasses.asdict(result), allow_nan=False))
    assert stored["kl"] == result.kl
    assert stored["intervals"]["kl"] == list(result.intervals["kl"])


def test_rows_for_a_table(model, sequences, cache):
    result = evaluate(model, random_sae(), HOOK, sequences, activations=cache, max_tokens=40)
    rows = {row.name: row for row in result.rows()}
    fields = [field.name for field in dataclasses.fields(result)]
    assert sorted(rows) == sorted(set(fields) - {"tokens", "ce_tokens", "intervals"})
    assert list(rows)[:2] == ["l0", "explained_variance"]
    assert rows["kl"] == ("kl", result.kl, *result.intervals["kl"], result.ce_tokens)
    assert rows["dense"] == ("dense", result.dense, *result.intervals["dense"], result.tokens)
    assert rows["decoder_redundancy"].tokens == 0
    assert dataclasses.replace(result, intervals={}).rows()[0][2:4] == (None, None)


def longer(sequences, times):
    arrays = ("token_ids", "counted", "document_of")
    repeated = {name: np.tile(getattr(sequences, name), (times, 1)) for name in arrays}
    return dataclasses.replace(sequences, **repeated)


def held_bytes():
    """Of all tensors that are alive."""
    alive = [found for found in gc.get_objects() if type(found) in (torch.Tensor, Parameter)]
    storages = (tensor.untyped_storage() for tensor in alive if tensor.layout == torch.strided)  # others have none
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


@pytest.mark.parametrize("cached", [True, False])
def test_memory_does_not_grow_with_tokens(model, sequences, tmp_path, watched, monkeypatch, cached):
    """What lives when the stream of tokens ends, and when that of predictions does: the same for ten times as many."""
    monkeypatch.setattr(measure, "BATCH_TOKENS", 64)
    held = {}
    for times in (2, 20):
        text = longer(sequences, times)
        cache = ActivationCache.build(model, HOOK, text, tmp_path / str(times)) if cached else None
        tokens = int(text.counted[text.is_validation()].sum())
        at_ends = []

        def progress(done, total, metrics=None, tokens=tokens, at_ends=at_ends):
            if done in (tokens, total):
                at_ends.append(held_bytes())

        before = held_bytes()
        result = evaluate(model, watched, HOOK, text, activations=cache, max_tokens=10**9, progress=progress)
        held[times] = [at_end - before for at_end in at_ends]
        assert result.tokens == tokens
        assert len(at_ends) == 2
    batch = 64 * (2 * D_IN + 64) * 4  # the last one's activations, reconstructions and features
    assert held[20] == pytest.approx(held[2], abs=batch)
    assert 32 < Watched.most <= 64


def test_a_width_that_does_not_fit_is_refused(model, sequences):
    with pytest.raises(CheckpointError, match=r"reads 16 dimensions but resid_post\.1 of .* has 32"):
        evaluate(model, JumpReLU(JumpReLUConfig(d_in=16, d_sae=8)), HOOK, sequences)


def test_sequences_without_held_out_text_are_refused(model, sequences):
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


@pytest.mark.parametrize("weight", [math.nan, 1e38])
def test_damaged_weights_are_refused(model, sequences, weight):
    """A finite weight can be too large too: its squared error is infinite, and no metric is a number."""
    sae = random_sae()
    with torch.no_grad():
        sae.W_dec[:, 3] = weight
    with pytest.raises(SAEError, match="weights are damaged"):
        evaluate(model, sae, HOOK, sequences)
