"""Effects equal those of whole passes, one feature and one window at a time."""

import numpy as np
import pytest
import torch
from torch.nn.functional import log_softmax

from sae_core.effects import EffectConfig, HeldOut, UpperLayers, Window, measure, measure_effects
from sae_core.effects.measure import _draw
from sae_core.models import LanguageModel
from sae_core.saes import SAE
from tests.core.effects.conftest import HOOK
from tests.effects import flat

CONFIG = EffectConfig(contexts=5, window=8, dose_contexts=2, replicates=100)


def frequent(text: HeldOut, number: int) -> list[int]:
    """The features that are active on most tokens."""
    return [int(feature) for feature in np.argsort(-text.counts(), kind="stable")[:number]]


@pytest.fixture(scope="module")
def upper(model: LanguageModel) -> UpperLayers:
    """The layers above the SAE."""
    return UpperLayers(model, HOOK)


def by_hand(model: LanguageModel, sae: SAE, text: HeldOut, feature: int, window: Window) -> tuple[float, float, int]:
    """KL and rise of the loss, summed, and compared tokens, of ablation in one window by two whole passes."""
    ids = text.token_ids[window.sequence][None]
    stop = window.start + CONFIG.window

    def ablate(x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        changed = x.clone()
        own = slice(window.start, stop)
        counted = torch.from_numpy(text.counted[window.sequence, own])
        f = sae.encode(x[0, own])[:, feature] * counted
        changed[0, own] -= f[:, None] * sae.W_dec[feature]
        return changed

    clean, ablated = (log_softmax(logits[0], dim=1) for logits in (model.logits(ids), model.logits(ids, HOOK, ablate)))
    kl = loss = 0.0
    tokens = 0
    for position in range(int(window.positions[0]), stop):
        if text.counted[window.sequence, position]:
            tokens += 1
            kl += float((clean[position].exp() * (clean[position] - ablated[position])).sum())
            if position + 1 < ids.shape[1] and text.counted[window.sequence, position + 1]:
                following = ids[0, position + 1]
                loss += float(clean[position, following] - ablated[position, following])
    return kl, loss, tokens


def test_ablation_equals_whole_passes(model: LanguageModel, sae: SAE, text: HeldOut, upper: UpperLayers) -> None:
    features = frequent(text, 4)
    for effect in measure_effects(upper, text, features, CONFIG):
        parts = [by_hand(model, sae, text, effect.feature, w) for w in _draw(text, effect.feature, CONFIG)]
        kl, _, tokens = (sum(part) for part in zip(*parts, strict=True))
        assert effect.tokens == tokens
        assert effect.kl == pytest.approx(kl / tokens, abs=1e-5)
        assert effect.kl is not None
        assert effect.ratio == pytest.approx(effect.kl / effect.control["kl"])
        assert effect.interval is not None
        assert effect.ratio is not None
        assert effect.interval[0] <= effect.ratio <= effect.interval[1]


def test_shared_passes_equal_one_pass_per_change(
    text: HeldOut, upper: UpperLayers, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = frequent(text, 3)
    with monkeypatch.context() as plain:
        plain.setattr(measure, "BATCH_POSITIONS", 1)
        plain.setattr(measure, "GROUP_BYTES", 1)
        expected = measure_effects(upper, text, features, CONFIG)
    per_text = upper.bytes_per_token(text.token_ids, text.activations) * text.token_ids.shape[1]
    for texts in (3, 100):
        monkeypatch.setattr(measure, "GROUP_BYTES", texts * per_text)
        for own, alone in zip(measure_effects(upper, text, features, CONFIG), expected, strict=True):
            assert dict(flat(own.as_json())) == pytest.approx(dict(flat(alone.as_json())), abs=1e-4)


def test_rise_of_the_loss_is_a_mean_over_scored_tokens(
    model: LanguageModel, sae: SAE, text: HeldOut, upper: UpperLayers
) -> None:
    (feature,) = frequent(text, 1)
    (effect,) = measure_effects(upper, text, [feature], CONFIG)
    windows = _draw(text, feature, CONFIG)
    total = sum(by_hand(model, sae, text, feature, window)[1] for window in windows)
    scored = 0
    for window in windows:
        counted = np.append(text.counted[window.sequence], False)
        places = np.arange(window.positions[0], window.start + CONFIG.window)
        scored += int((counted[places] & counted[places + 1]).sum())
    assert effect.delta_loss == pytest.approx(total / scored, abs=1e-5)


def test_a_feature_has_the_same_effect_whatever_is_measured_with_it(text: HeldOut, upper: UpperLayers) -> None:
    features = frequent(text, 6)
    together = measure_effects(upper, text, features, CONFIG)
    (alone,) = measure_effects(upper, text, features[3:4], CONFIG)
    assert alone.kl == pytest.approx(together[3].kl, abs=1e-6)
    assert alone.control == pytest.approx(together[3].control, abs=1e-6)
    assert alone.interval == pytest.approx(together[3].interval, rel=1e-3)


def test_a_repeated_measurement_gives_the_same_numbers(text: HeldOut, upper: UpperLayers) -> None:
    features = frequent(text, 6)
    assert measure_effects(upper, text, features, CONFIG) == measure_effects(upper, text, features, CONFIG)


def test_controls_are_active_features_of_equal_mass(text: HeldOut) -> None:
    from sae_core.effects.measure import _variants

    (feature,) = frequent(text, 1)
    windows = _draw(text, feature, CONFIG)
    made = list(_variants(text, feature, windows, CONFIG))
    ablated = [variant for variant in made if variant.kind == "ablate"]
    controls = [variant for variant in made if variant.kind == "control"]
    for own, control in zip(ablated, controls, strict=True):
        np.testing.assert_allclose(
            control.factors * text.lengths[control.sources], own.factors * text.lengths[feature], rtol=1e-5
        )
        for position, source in zip(control.window.positions, control.sources, strict=True):
            others, _ = text.active_at(control.window.sequence, int(position))
            assert source in others
            assert source != feature


def test_a_feature_that_is_never_active_has_no_effect_to_measure(text: HeldOut, upper: UpperLayers) -> None:
    silenced = HeldOut.__new__(HeldOut)
    silenced.__dict__.update(text.__dict__, _feature_ends=np.zeros(49, dtype=np.int64))
    (effect,) = measure_effects(upper, silenced, [7], CONFIG)
    assert (effect.contexts, effect.tokens, effect.ratio, effect.used) == (0, 0, None, False)


def test_more_is_changed_by_a_larger_dose(text: HeldOut, upper: UpperLayers) -> None:
    (feature,) = frequent(text, 1)
    (effect,) = measure_effects(upper, text, [feature], CONFIG)
    kls = [point["kl"] for point in effect.dose_response]
    assert [point["dose"] for point in effect.dose_response] == list(CONFIG.doses)
    assert kls == sorted(kls)


def test_probability_moves_from_suppressed_to_promoted_tokens(text: HeldOut, upper: UpperLayers) -> None:
    (feature,) = frequent(text, 1)
    (effect,) = measure_effects(upper, text, [feature], CONFIG)
    assert [gain for _, gain in effect.promoted] == sorted((gain for _, gain in effect.promoted), reverse=True)
    assert all(gain > 0 for _, gain in effect.promoted)
    assert all(gain < 0 for _, gain in effect.suppressed)
    assert sum(band["contexts"] for band in effect.by_band) == effect.contexts
