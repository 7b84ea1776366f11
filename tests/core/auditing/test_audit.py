"""A whole audit: every figure is computed again from its raw values, by scipy and a few lines."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from sae_core.auditing import Audit, AuditConfig, NeutralText, run_audit
from sae_core.auditing import audit as auditing
from sae_core.effects import Fact
from sae_core.errors import AuditError
from sae_core.interventions import Intervention, Site, intervene
from sae_core.models import HookPoint, LanguageModel
from sae_core.saes import SAE
from tests.core.auditing.conftest import Text, pair_texts
from tests.core.auditing.test_measures import by_hand
from tests.core.interventions.conftest import random_sae
from tests.tiny import documents

pytestmark = pytest.mark.slow

HOOK = HookPoint("resid_post", 1)
CONFIG = AuditConfig(top=3, random_controls=2, replicates=200, listed=5)
FACTS = [Fact("The king's wife is the", "queen", "king"), Fact("The capital of France is", "Paris", "Rome")]


def neutral(model: LanguageModel) -> list[NeutralText]:
    found = []
    for document in documents()[:3]:
        ids = model.tokenize(document["text"])[:40]
        found.append(NeutralText(ids, np.array([token not in model.special_token_ids for token in ids])))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("audit")


@pytest.fixture(scope="module")
def found(model: LanguageModel, sae: SAE, folder: Path) -> Audit:
    return run_audit(
        model,
        sae,
        hook=HOOK,
        measure="crows-pairs",
        texts=pair_texts(80),
        neutral=neutral(model),
        facts=FACTS,
        config=CONFIG,
        folder=folder,
    )


def rows(audit: Audit, stage: str, treatment: str | None = None) -> list[Mapping[str, Any]]:
    return [row for row in audit.raw if row["stage"] == stage and (treatment is None or row["treatment"] == treatment)]


def test_an_audit_is_json_and_says_what_was_tested(found: Audit) -> None:
    stored = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert "raw" not in stored and json.dumps(list(found.raw), allow_nan=False)
    kinds = [one["kind"] for one in stored["treatments"]]
    assert kinds == ["none", "features", "random", "random", "diffmean", "tokens"]
    assert stored["chosen_on"] + stored["tested_on"] == stored["measure"]["pairs"] == 80
    assert stored["facts"] == 2 and stored["cost_tokens"] > 50
    assert any("rare" in one for one in found.limits) and any("reduced form" in one for one in found.limits)


def test_features_are_tested_by_wilcoxon_on_one_half_and_their_effects_are_of_the_other(found: Audit) -> None:
    halves = np.array([row["half"] == "chosen" for row in rows(found, "item", "none")])
    assert found.chosen_on == halves.sum()
    differences = {row["feature"]: np.array(row["differences"]) for row in rows(found, "difference")}
    (tested,) = rows(found, "test")
    q = dict(zip(tested["features"], stats.false_discovery_control(tested["p"]), strict=True))
    assert found.features and found.tested_features == len(tested["features"])
    for one in found.features:
        chosen, others = (differences[one.feature][rows_of] for rows_of in (halves, ~halves))
        assert one.p == pytest.approx(stats.wilcoxon(chosen[chosen != 0]).pvalue)
        assert one.q == pytest.approx(q[one.feature]) and one.pairs == (chosen != 0).sum()
        assert one.chosen_effect == pytest.approx(chosen.mean() / chosen.std(ddof=1))
        assert one.effect.value == pytest.approx(others.mean() / others.std(ddof=1))
        assert one.effect.interval and one.effect.interval[0] < one.effect.value < one.effect.interval[1]
    treated = found.treatments[1].features
    assert len(treated) == 3 and all(q[feature] <= 0.05 for feature in treated)
    example = found.features[0].example
    assert example and "man number" in "".join(token.text for token in example.stereotype)


def test_treatments_are_measured_on_the_other_half_with_paired_intervals(found: Audit) -> None:
    before = {row["item"]: row["values"]["score"] for row in rows(found, "item", "none") if row["half"] == "tested"}
    features = [row["values"]["score"] for row in rows(found, "item", found.treatments[1].name)]
    weights = np.random.default_rng(0).multinomial(len(before), np.full(len(before), 1 / len(before)), size=200)
    for one in found.treatments[1:-1]:
        after = {row["item"]: row["values"]["score"] for row in rows(found, "item", one.name)}
        assert after.keys() == before.keys() and one.score.value == np.mean(list(after.values()))
        change = np.array(list(after.values())) - np.array(list(before.values()))
        assert one.change and one.change.value == pytest.approx(change.mean())
        low, high = np.percentile(weights @ change / len(before), [2.5, 97.5])
        assert one.change.interval == (pytest.approx((low, high)) if low < high else None)
        if one.kind != "features":
            assert one.versus_features
            assert one.versus_features.value == pytest.approx(np.mean(features) - one.score.value)
    deleted = found.treatments[-1]
    assert deleted.score.value == 0.5 and deleted.change
    assert deleted.change.value == pytest.approx(0.5 - np.mean(list(before.values())))


def test_ablated_scores_are_those_of_one_sentence_at_a_time(found: Audit, model: LanguageModel, sae: SAE) -> None:
    treatment = found.treatments[1]
    texts = {text.pair: text.text for text in reversed(pair_texts(80))}  # the first of each pair
    changes = [Intervention("ablate", feature=feature) for feature in treatment.features]
    for row in rows(found, "item", treatment.name)[:5]:
        with intervene(model, [Site(HOOK, changes, sae=sae)]):
            own = by_hand(model, texts[row["item"]])
        assert row["log_probs"][0] == pytest.approx(sum(own), abs=1e-3)
        assert row["log_probs"][0] != pytest.approx(sum(by_hand(model, texts[row["item"]])), abs=1e-3)


def test_costs_are_sums_over_texts_and_facts(found: Audit, model: LanguageModel) -> None:
    none = found.treatments[0]
    held = [sum(by_hand(model, f.expected, f.prompt)) > sum(by_hand(model, f.forbidden or "", f.prompt)) for f in FACTS]
    assert none.facts and none.facts.value == np.mean(held)
    for one in found.treatments[1:-1]:
        texts = rows(found, "text", one.name)
        assert one.kl and one.kl.value == pytest.approx(
            sum(row["kl"] for row in texts) / sum(row["tokens"] for row in texts)
        )
        assert one.loss and one.loss.value == pytest.approx(
            sum(row["rise"] for row in texts) / sum(row["scored"] for row in texts)
        )
        facts = [row["log_probs"][0] > row["log_probs"][1] for row in rows(found, "fact", one.name)]
        assert one.facts and one.facts_change and one.facts.value == np.mean(facts)
        assert one.facts_change.value == np.mean(facts) - np.mean(held)
        both = zip(rows(found, "item", one.name), _tested(found), strict=True)
        rise = [(sum(was["log_probs"]) - sum(now["log_probs"]), sum(was["tokens"])) for now, was in both]
        assert one.sentences
        assert one.sentences.value == pytest.approx(sum(r for r, _ in rise) / sum(n for _, n in rise))


def _tested(found: Audit) -> list[Mapping[str, Any]]:
    return [row for row in rows(found, "item", "none") if row["half"] == "tested"]


def test_an_interrupted_audit_continues_where_it_was(
    found: Audit, model: LanguageModel, sae: SAE, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_args: object, **_options: object) -> None:
        raise AssertionError("a stage that is there was made again")

    monkeypatch.setattr(model, "logits", never)
    given = {"hook": HOOK, "measure": "crows-pairs", "texts": pair_texts(80), "neutral": neutral(model)}
    again = run_audit(model, sae, **given, facts=FACTS, config=CONFIG, folder=folder)  # type: ignore[arg-type]
    assert again == found


def test_random_controls_have_about_the_mass_of_the_features(found: Audit, model: LanguageModel, sae: SAE) -> None:
    drawn = [one.features for one in found.treatments if one.kind == "random"]
    assert drawn[0] != drawn[1] and not set(drawn[0]) & set(found.treatments[1].features)
    diffmean = next(one for one in found.treatments if one.kind == "diffmean")
    texts = pair_texts(80)
    chosen = [row["item"] for row in rows(found, "item", "none") if row["half"] == "chosen"]
    mean = [
        np.mean([_mean_at_hook(model, text.text) for text in texts[side::2] if text.pair in chosen], axis=0)
        for side in (0, 1)
    ]
    direction = Intervention("ablate", direction=torch.from_numpy(mean[0] - mean[1]))
    row = rows(found, "item", diffmean.name)[0]
    with intervene(model, [Site(HOOK, [direction])]):
        own = sum(by_hand(model, next(text.text for text in texts if text.pair == row["item"])))
    assert row["log_probs"][0] == pytest.approx(own, abs=1e-2)


def _mean_at_hook(model: LanguageModel, text: str) -> np.ndarray:
    mean: np.ndarray = model.activations(torch.tensor([model.tokenize(text)]), HOOK)[0, 1:].mean(dim=0).numpy()
    return mean


def test_what_cannot_be_audited_is_refused_in_one_sentence(model: LanguageModel, sae: SAE) -> None:
    def audit(texts: list[Text], config: AuditConfig = CONFIG, own: SAE = sae, measure: str = "crows-pairs") -> Audit:
        return run_audit(model, own, hook=HOOK, measure=measure, texts=texts, config=config)  # type: ignore[arg-type]

    with pytest.raises(AuditError, match="at least 10 pairs or questions, and this set has 9"):
        audit(pair_texts(9))
    with pytest.raises(AuditError, match="There is no feature 48: the SAE's features are 0 to 47"):
        audit(pair_texts(12), replace(CONFIG, features=(1, 48)))
    with pytest.raises(AuditError, match="reads 16 dimensions"):
        audit(pair_texts(12), own=random_sae("topk", d_in=16).for_inference())
    with pytest.raises(AuditError, match="two labels each"):
        audit([Text("a", "x", None, "1"), Text("b", None, None, "1")], measure="pairs")
    with pytest.raises(AuditError, match="exactly two groups"):
        audit([Text("a", None, "x")], measure="groups")
    long = [Text("word " * 400, side, "size", "long") for side in ("stereotype", "anti-stereotype")]
    long[1] = replace(long[1], text="other " * 400)
    found = audit([*pair_texts(30), *long], replace(CONFIG, random_controls=0))
    assert found.measure.pairs == 30
    assert [(one.items, one.examples) for one in found.measure.left_out] == [(1, ["long"])]


def test_sides_of_a_set_of_ones_own_have_its_names(model: LanguageModel, sae: SAE) -> None:
    texts = pair_texts(30, ("men", "women"))
    found = run_audit(model, sae, hook=HOOK, measure="pairs", texts=texts, config=replace(CONFIG, random_controls=0))
    assert found.contrast and (found.contrast.first, found.contrast.second) == ("men", "women")
    assert found.measure.sentence == "finds the side “men” likelier than the side “women”"
    wins = [
        sum(by_hand(model, a.text)) > sum(by_hand(model, b.text)) for a, b in zip(texts[::2], texts[1::2], strict=True)
    ]
    assert found.measure.value == np.mean(wins)


def test_a_set_without_pairs_needs_features_by_name(model: LanguageModel, sae: SAE) -> None:
    texts = [Text(text.text, None, text.label) for text in pair_texts(30)]
    plain = run_audit(model, sae, hook=HOOK, measure="groups", texts=texts, config=CONFIG)
    assert not plain.treatments and any("name features" in one for one in plain.limits)
    named = replace(CONFIG, features=(3, 4))
    changed = run_audit(model, sae, hook=HOOK, measure="groups", texts=texts, config=named, facts=FACTS)
    assert [one.kind for one in changed.treatments] == ["none", "features"]
    assert changed.treatments[1].change and changed.treatments[1].facts


def test_a_limit_draws_items_by_their_words(model: LanguageModel, sae: SAE) -> None:
    texts = pair_texts(40)
    few = auditing.usable_items(model, auditing.INSTRUMENTS["crows-pairs"], texts, replace(CONFIG, limit=15))[0]
    again = auditing.usable_items(model, auditing.INSTRUMENTS["crows-pairs"], texts[::-1], replace(CONFIG, limit=15))[0]
    assert len(few) == 15 and {item.key for item in few} == {item.key for item in again}


def test_figures_beside_the_score_have_a_paired_change(model: LanguageModel, sae: SAE) -> None:
    people = "farmer", "teacher", "guard", "baker", "nurse", "clerk"
    texts = [
        Text(
            f"The {one} met the {other} because {pronoun} was early.",
            label,
            None,
            f"{one} {other}",
            {"referent": other},
        )
        for one in people
        for other in people
        if one != other
        for label, pronoun in (("pro-stereotype", "she"), ("anti-stereotype", "he"))
    ]
    named = replace(CONFIG, features=(3, 4), random_controls=0)
    found = run_audit(model, sae, hook=HOOK, measure="winobias", texts=texts, facts=FACTS, config=named)
    names = [one.name for one in found.treatments[1].also_change]
    assert names == ["pro-stereotype accuracy", "anti-stereotype accuracy", "accuracy gap"]
    for figure in found.treatments[1].also_change:
        was, now = (
            np.mean([row["values"][figure.name] for row in own])
            for own in (_tested(found), rows(found, "item", found.treatments[1].name))
        )
        assert figure.value == pytest.approx(now - was) and figure.items == found.tested_on
    assert found.contrast and found.contrast.first == "female" and found.measure.pairs == 30
