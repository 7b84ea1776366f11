"""Decisions lead: what a feature is called in headings, lists and searches, once everybody may see them."""

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app.db import create_sessionmaker, transaction
from app.queries.decisions import DecisionText
from app.queries.feature_list import FeatureFilter, list_features
from app.queries.features import get_feature
from app.queries.label_sets import LabelSetView
from app.queries.labels import LabelSummary, label_summaries
from app.queries.matches import feature_matches
from app.services.actors import Actor, Role
from app.services.adjudication import decide
from app.services.label_sets import change_set
from app.web.components.feature_view import heading
from tests.factories import Synthetic
from tests.labelling import label, make_set

REVIEWER = Actor("rosa", role=Role.reviewer)


async def decided(engine: AsyncEngine, made: Synthetic, *, blind: bool = False) -> LabelSetView:
    """A set whose features 0 and 1 have labels that differ, and a decision on the first."""
    of = await make_set(engine, made.sae, blind=blind)
    async with transaction(create_sessionmaker(engine)) as session:
        for feature in (0, 1):
            for author in ("ada", "grace"):
                await label(session, made.sae, feature, author, f"says {author}", "syntax")
        text = DecisionText("bandages", ("medicine",))
        await decide(session, of, made.sae, 0, actor=REVIEWER, text=text, replaces=None)
    return of


async def searched(session: AsyncSession, made: Synthetic, query: str) -> list[int]:
    page = await list_features(session, made.sae, FeatureFilter(q=query))
    return [row.index for row in page.rows]


async def test_a_decision_is_what_a_feature_is_called(
    engine: AsyncEngine, session: AsyncSession, made: Synthetic
) -> None:
    await decided(engine, made)
    called = await label_summaries(session, made.sae.id, [0, 1, 2])
    assert called == {0: LabelSummary(2, "bandages", "rosa", True), 1: LabelSummary(2, "says grace", "grace")}
    for feature, name in ((0, "bandages"), (1, "says grace")):
        detail = await get_feature(session, made.sae, feature)
        assert detail is not None
        assert heading(made.sae, detail).label == name
    assert await searched(session, made, "bandage") == [0]
    assert await searched(session, made, "Medicine") == [0]
    assert sorted(await searched(session, made, "says ada")) == [0, 1]
    found = await feature_matches(session, made.sae, "bandage", {0: (), 1: ()})
    assert (found[0].label, found[1].label) == ("bandages", None)


async def test_a_decision_in_a_blind_set_leads_once_the_set_is_closed(
    engine: AsyncEngine, session: AsyncSession, made: Synthetic
) -> None:
    of = await decided(engine, made, blind=True)
    assert await label_summaries(session, made.sae.id, [0]) == {}
    assert await searched(session, made, "bandages") == []
    await change_set(session, of.id, actor=REVIEWER, is_closed=True)
    assert (await label_summaries(session, made.sae.id, [0]))[0].explanation == "bandages"
    assert await searched(session, made, "bandages") == [0]
