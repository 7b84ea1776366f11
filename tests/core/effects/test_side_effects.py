"""Side effects of an edit against computations by hand, and controls that do as much elsewhere."""

import numpy as np
import pytest
import torch
from torch.nn.functional import log_softmax

from sae_core.effects import (
    Fact,
    FactChange,
    TextChange,
    activation_mass,
    change_of_fact,
    change_of_text,
    control_sites,
    moved_tokens,
    summarise_facts,
    summarise_texts,
)
from sae_core.effects.side_effects import continued
from sae_core.errors import InterventionError
from sae_core.interventions import Edit, Intervention, Site, intervene, load_edit, save_edit
from sae_core.models import LanguageModel
from sae_core.saes import SAE
from tests.core.interventions.conftest import HOOK, TEXT, strongest


@pytest.fixture
def site(model: LanguageModel, sae: SAE) -> Site:
    return Site(HOOK, [Intervention("scale", 4.0, feature=strongest(model, sae), positions="prompt")], sae)


def test_loss_kl_and_probabilities_are_those_by_hand(model: LanguageModel, site: Site) -> None:
    ids = model.tokenize(TEXT)
    counted = np.array([place > 0 for place in range(len(ids))])
    found, moved = change_of_text(model, ids, counted, [[site], []])
    whole = torch.tensor([ids])
    before = log_softmax(model.logits(whole)[0, 1:], dim=1)
    with intervene(model, [site]):
        after = log_softmax(model.logits(whole)[0, 1:], dim=1)
    kl = float((before.exp() * (before - after)).sum())
    following = whole[0, 2:, None]
    losses = [float(-side[:-1].gather(1, following).sum()) for side in (before, after)]
    assert kl > 0.01
    assert found.kl == pytest.approx((kl, 0.0), abs=1e-4)
    assert found.loss == pytest.approx(losses[0], abs=1e-3)
    assert found.rise == pytest.approx((losses[1] - losses[0], 0.0), abs=1e-3)
    assert (found.tokens, found.scored) == (len(ids) - 1, len(ids) - 2)
    assert found.top_changed == (bool(before[-1].argmax() != after[-1].argmax()), False)
    np.testing.assert_allclose(moved[0], (after.exp() - before.exp()).sum(dim=0), atol=1e-4)
    listed = moved_tokens(moved, found.tokens, 5)
    assert listed["gained"][0][0] == int(moved[0].argmax())
    assert listed["lost"][0][1] == pytest.approx(moved[0].min() / found.tokens)
    assert [change for _, change, _ in listed["gained"]] == sorted(
        (change for _, change, _ in listed["gained"]), reverse=True
    )


def test_an_intervention_on_new_text_alone_acts_on_text_too(model: LanguageModel, sae: SAE) -> None:
    change = Intervention("add", 3.0, feature=1, positions="generated")
    ids = model.tokenize(TEXT)
    found, _ = change_of_text(model, ids, np.ones(len(ids), dtype=bool), [[Site(HOOK, [change], sae)]])
    assert found.kl[0] > 0.01


def test_a_control_adds_as_much_at_the_same_tokens_along_a_feature_of_similar_mass(
    model: LanguageModel, sae: SAE, site: Site, tmp_path: object
) -> None:
    ids = torch.tensor([model.tokenize(TEXT)])
    x = model.activations(ids, HOOK)[0]
    counted = torch.arange(ids.shape[1]) > 0
    mass = activation_mass(sae, x, counted)
    by_hand = sae.encode(x[1:]).sum(dim=0) * sae.W_dec.norm(dim=1)
    np.testing.assert_allclose(mass, by_hand, rtol=1e-5)
    own = site.interventions[0].feature
    ((control,), ((feature,),)) = control_sites([site], [(sae, mass)], np.random.default_rng(0))
    assert feature != own
    assert mass[feature] > 0
    all_tokens = [torch.ones(len(x), dtype=torch.bool)]
    ours, theirs = (one.change(x, x, all_tokens) for one in (site, control))
    torch.testing.assert_close(ours.norm(dim=1), theirs.norm(dim=1), atol=1e-4, rtol=1e-4)
    along = theirs[theirs.norm(dim=1).argmax()]
    cosine = torch.nn.functional.cosine_similarity(along, sae.W_dec[feature], dim=0)
    assert abs(float(cosine)) == pytest.approx(1, abs=1e-4)


def test_an_edits_file_has_the_same_controls(model: LanguageModel, sae: SAE, site: Site, tmp_path: object) -> None:
    both = Site(HOOK, [*site.interventions, Intervention("add", 2.0, feature=3)], sae)
    path = f"{tmp_path}/edit.json"
    save_edit(Edit.of("Test", model, [both]), path)
    mass = np.arange(1.0, 49.0)
    drawn = [
        control_sites(sites, [(sae, mass)], np.random.default_rng(1))[1] for sites in ([both], load_edit(path).sites)
    ]
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0][0])) == 2
    with pytest.raises(InterventionError, match="no control"):
        control_sites([both], [(sae, np.zeros(48))], np.random.default_rng(1))


def test_probabilities_of_a_fact_are_products_over_its_tokens(model: LanguageModel, site: Site) -> None:
    fact = Fact("It was the best of", "times", "all worlds")
    found = change_of_fact(model, fact, [[site], []])
    prompt, target = continued(model, fact.prompt, "times")
    assert model.decode(target) == " times"
    log_p = log_softmax(model.logits(torch.tensor([[*prompt, *target]]))[0], dim=1)
    by_hand = sum(float(log_p[len(prompt) - 1 + place, token]) for place, token in enumerate(target))
    assert found.expected[0] == pytest.approx(np.exp(by_hand), rel=1e-3)
    assert found.expected[2] == pytest.approx(found.expected[0], rel=1e-5), "no intervention changes nothing"
    assert found.expected[1] != pytest.approx(found.expected[0], rel=1e-3)
    assert found.forbidden is not None
    assert found.holds[0] == (found.expected[0] > found.forbidden[0])
    word = next(text for text in map(model.decode, _greedy(model)) if text.startswith(" "))
    place = [model.decode(token) for token in _greedy(model)].index(word)
    alone = change_of_fact(model, Fact(model.decode(model.tokenize(TEXT)[1 : place + 1]), word), [[]])
    assert alone.holds == (True, True)
    assert alone.forbidden is None


def _greedy(model: LanguageModel) -> list[list[int]]:
    """The likeliest token after each token of `TEXT`."""
    return [[int(token)] for token in model.logits(torch.tensor([model.tokenize(TEXT)]))[0].argmax(dim=1)]


def test_means_are_per_token_and_intervals_hold_them() -> None:
    texts = [
        TextChange(10, 9, 20.0, (1.0 + 0.1 * number, 0.2, 0.4), (0.9, 0.0, 0.18), (number < 5, False, True))
        for number in range(10)
    ]
    found = summarise_texts(texts, replicates=500, seed=0, tops=True)
    assert (found["texts"], found["tokens"]) == (10, 100)
    assert found["kl"]["edit"]["value"] == pytest.approx(0.145)
    assert found["kl"]["control"]["value"] == pytest.approx(0.03)
    assert found["kl"]["ratio"]["value"] == pytest.approx(4.833, abs=1e-3)
    low, high = found["kl"]["ratio"]["interval"]
    assert low < 4.833 < high
    assert found["loss"] == pytest.approx(20 / 9)
    assert found["rise"]["edit"]["value"] == pytest.approx(0.1)
    assert found["top_changed"]["edit"]["value"] == 0.5
    assert found["top_changed"]["control"]["value"] == 0.5
    alone = summarise_texts(texts[:1], replicates=500, seed=0)
    assert alone["kl"]["ratio"]["interval"] is None, "one text tells nothing of others"


def test_facts_are_summed_up_before_and_after() -> None:
    facts = [
        FactChange((0.1, 0.6, 0.1, 0.3), (0.5, 0.1, 0.5, 0.5), (False, True, False, False)),
        FactChange((0.3, 0.4, 0.3, 0.1), (0.2, 0.3, 0.2, 0.0), (True, True, True, True)),
    ]
    found = summarise_facts(facts, replicates=100, seed=0)
    assert found["expected"]["before"]["value"] == pytest.approx(0.2)
    assert found["expected"]["edit"]["value"] == pytest.approx(0.5)
    assert found["expected"]["control"]["value"] == pytest.approx(0.2)
    assert found["holds"]["edit"]["value"] == 1.0
    assert found["forbidden"]["before"]["value"] == pytest.approx(0.35)
