"""What distinguishes two sides of a set is found by a run, kept, and recomputed from what is exported."""

from collections.abc import Sequence

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from app.errors import NotFound, Unprocessable
from app.pipeline.compare_texts import CompareTextsParams
from app.pipeline.train import TrainParams
from app.queries.deletions import left_folders
from app.queries.text_comparisons import (
    FeatureQuery,
    compared_features,
    get_text_comparison,
    list_text_comparisons,
    one_compared_feature,
)
from app.queries.text_readings import feature_on_texts, readings_of_sae
from app.queries.text_sets import TextItem, list_texts
from app.runs.job_context import JobContext
from app.services.actors import Actor
from app.services.text_sets import delete_text_set
from tests.app.pipeline.running import run_to_end, submit
from tests.text_sets import make_text_set

pytestmark = pytest.mark.slow
SAE = "tiny-llama-l1-batchtopk-64"
PARAMS = CompareTextsParams(sae=SAE, a="moods:happy", b="moods:sad")


async def test_two_labels_of_a_set_are_compared(ctx: JobContext, training: TrainParams) -> None:
    await run_to_end(ctx, "train", training)
    async with ctx.sessions.begin() as session:
        moods = await make_text_set(session)
        days = [(f"a happy day, the {number}th of its kind", None) for number in range(40)]
        await make_text_set(session, "days", [*days, *days[:3], ("one more", None)])
        await make_text_set(session, "few", [(f"text {number}", "one") for number in range(9)])
    refused = {
        ("moods:happy", "moods:happy"): "nothing can distinguish a side from itself",
        ("moods:happy", "moods:angry"): "no text with the label “angry”. Its labels are happy, sad",
        ("days:x", "moods:sad"): "It has no labels",
        ("few:one", "moods"): "few:one has 9 texts. A comparison needs at least 10",
        ("moods:happy", "days"): "40 are on the other side too and cannot count",
    }
    for (a, b), message in refused.items():
        with pytest.raises(Unprocessable, match=message):
            await submit(ctx, "compare-texts", CompareTextsParams(sae=SAE, a=a, b=b))
    with pytest.raises(NotFound, match="nowhere"):
        await submit(ctx, "compare-texts", CompareTextsParams(sae=SAE, a="nowhere", b="moods"))

    run = await run_to_end(ctx, "compare-texts", PARAMS)
    assert run.result is not None
    assert (run.result["texts_a"], run.result["texts_b"]) == (40, 40)
    assert run.result["differ"] > 0 and run.result["page"] == f"/saes/{SAE}/compare-texts/{run.result['comparison']}"

    async with ctx.sessions() as session:
        view = await get_text_comparison(session, run.result["comparison"])
        assert view is not None and (view.a.name, view.b.name) == ("moods:happy", "moods:sad")
        assert (await list_text_comparisons(session, sae_id=view.sae_id, limit=5))[0][0].id == view.id
        texts = await list_texts(session, moods.id)
        (reading,) = await readings_of_sae(session, view.sae_id)
        features = await compared_features(session, view.id, FeatureQuery(limit=200))
        is_a = np.array([text.label == "happy" for text in texts])
        enough = min(((~is_a) & held_out(texts)).sum(), (is_a & held_out(texts)).sum()) >= 10
        choosing = ~held_out(texts) if enough else np.ones(len(texts), bool)
        assert view.detail["sides"]["a"]["chosen"] == (is_a & choosing).sum()
        for row in features.rows:
            active = await feature_on_texts(session, reading.id, row.feature)
            values = np.array([active.get(text.number, 0.0) for text in texts])
            assert row.auroc == pytest.approx(roc_auc_score(is_a[choosing], values[choosing]))
            assert row.rate_b == pytest.approx((values[choosing & ~is_a] > 0).mean())
        assert features.total == len(features.rows) == view.detail["tested"]
        strengths = [abs(row.auroc - 0.5) for row in features.rows]
        assert strengths == sorted(strengths, reverse=True)
        strongest = features.rows[0]
        assert strongest.examples and {"side", "text", "tokens", "values", "peak"} <= strongest.examples[0].keys()
        assert await one_compared_feature(session, view.id, strongest.feature) == strongest

        first = await compared_features(session, view.id, FeatureQuery(order="d", limit=4))
        rest = await compared_features(session, view.id, FeatureQuery(order="d", cursor=first.next_cursor, limit=200))
        assert len(first.rows) + len(rest.rows) == rest.total == features.total
        assert not {row.feature for row in first.rows} & {row.feature for row in rest.rows}
        only_b = await compared_features(
            session, view.id, FeatureQuery(direction="b", differing=True, without_tokens=True, min_rate=0.5, limit=200)
        )
        expected = {
            row.feature
            for row in features.rows
            if row.auroc < 0.5 and row.q < 0.05 and row.token_share < 0.9 and row.rate_b >= 0.5
        }
        assert {row.feature for row in only_b.rows} == expected
    words = {word["word"]: word for word in view.detail["words"]}
    assert words["happy"]["auroc"] == 1 and words["sad"]["auroc"] == 0
    assert view.detail["length"]["auroc"] > 0.5, "a happy day has more tokens"

    again = await run_to_end(ctx, "compare-texts", PARAMS)
    assert again.result is not None and again.result["comparison"] == view.id, "the address stays"
    async with ctx.sessions.begin() as session:
        assert (await compared_features(session, view.id, FeatureQuery())).total == features.total
        await delete_text_set(session, "moods", actor=Actor("ada"))
    async with ctx.sessions() as session:
        assert await get_text_comparison(session, view.id) is None
        assert f"readings/{reading.key}" in await left_folders(session)


def held_out(texts: Sequence[TextItem]) -> np.ndarray:
    return np.array([text.split == "test" for text in texts])
