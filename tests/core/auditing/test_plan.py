"""An audit's progress: the share that is told is that of the tokens which the model has read."""

from typing import Any

import pytest

from sae_core.auditing import AuditConfig, ClassifierTexts, NeutralText, make_biographies, run_audit
from sae_core.auditing.classifier import read_cells
from sae_core.auditing.measures import INSTRUMENTS
from sae_core.auditing.plan import plan_audit
from sae_core.auditing.stages import UNITS, Plan
from sae_core.effects import Fact
from sae_core.models import HookPoint, LanguageModel
from sae_core.saes import SAE
from tests.core.auditing.conftest import pair_texts
from tests.core.auditing.test_audit import neutral
from tests.core.auditing.test_biographies import NAMES

FACTS = [Fact("The king's wife is the", "queen", "king"), Fact("The capital of France is", "Paris", "Rome")]
CONFIG = AuditConfig(top=3, random_controls=1, replicates=20, listed=3)
BIOGRAPHIES = make_biographies(NAMES, train=24, test=24)


def test_a_stage_has_the_share_of_its_tokens() -> None:
    plan = Plan({"own": 10, "sides": 30, "classifier": 60})
    assert [plan.share(stage) for stage in plan.tokens] == [(0, 0.1), (0.1, 0.4), (0.4, 1)]
    assert Plan({"own": 0}).share("own") == (0, 0)


def _plan(model: LanguageModel, pairs: int, **config: Any) -> dict[str, int]:
    instrument = INSTRUMENTS["crows-pairs"]
    items = instrument.read(pair_texts(pairs)).items
    texts: list[NeutralText] = neutral(model)
    cells = read_cells(BIOGRAPHIES)
    return dict(plan_audit(model, instrument, items, texts, FACTS, cells, AuditConfig(**config)).tokens)


def test_more_controls_take_a_larger_share_and_own_scores_the_same(model: LanguageModel) -> None:
    one, three = _plan(model, 60, random_controls=1), _plan(model, 60, random_controls=3)
    assert one["own"] == three["own"] > one["scores-0"]
    assert three["classifier"] > one["classifier"]
    assert one["neutral"] / 4 == three["neutral"] / 6
    assert "scores-4" in three
    assert "scores-4" not in one


def test_too_few_pairs_to_test_on_have_no_changes(model: LanguageModel) -> None:
    assert "neutral" in _plan(model, 60)
    assert "neutral" not in _plan(model, 12)


@pytest.mark.slow
def test_what_is_told_is_what_was_read(model: LanguageModel, sae: SAE, monkeypatch: pytest.MonkeyPatch) -> None:
    read, told = 0, list[tuple[float, int]]()

    def counted(whole: Any) -> Any:
        def reads(ids: Any, *rest: Any, **named: Any) -> Any:
            nonlocal read
            read += ids.numel()
            return whole(ids, *rest, **named)

        return reads

    for name in ("logits", "activations", "run_with_cache"):
        if hasattr(model, name):
            monkeypatch.setattr(model, name, counted(getattr(model, name)))
    run_audit(
        model,
        sae,
        hook=HookPoint("resid_post", 1),
        measure="crows-pairs",
        texts=pair_texts(60),
        neutral=neutral(model),
        facts=FACTS,
        classifier=ClassifierTexts(BIOGRAPHIES, "made up"),
        config=CONFIG,
        progress=lambda done, total, _=None: told.append((done / total, read)),
    )
    assert told[-1] == (1, read)
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert len(set(shares)) > UNITS / 50
    assert max(abs(share - tokens / read) for share, tokens in told) < 0.05
