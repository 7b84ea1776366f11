"""Sentences about two SAEs and about two of their features."""

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app.queries.comparisons import get_comparison, get_counterparts
from app.web.components.comparison_text import overview, verdict
from app.web.components.glossary import differing_parts
from tests.comparing import make_pair


async def test_sentences_say_what_was_compared(engine: AsyncEngine, session: AsyncSession) -> None:
    narrow, wide = (made.sae for made in await make_pair(engine))
    comparison = await get_comparison(session, narrow, wide)
    assert comparison is not None
    text = overview(narrow, wide, comparison)
    own, others = comparison.this, comparison.other
    assert text.startswith(f"{own['matched_by_activity']} of the 24 features of {narrow.slug} match one of {wide.slug}")
    assert f"{own['unmatched']} match none in any way, and neither do {others['unmatched']} of the 60" in text
    short, long = differing_parts(narrow, wide)
    assert f"{long} splits {own['split']} features of {short} into parts;" in text
    assert [text.count(each.slug) for each in (narrow, wide)] == [1, 1], "a long name is read once"
    assert text.endswith(f"the other way round it is {others['split']}.")
    found = await get_counterparts(session, comparison, range(24))
    matched = next(each for each in found.values() if each.matched)
    assert verdict(matched, "…60", by_activity=True) == "The two match: each is the other's best."
    assert verdict(matched, "…60", by_activity=False) == "The two match: each is the other's best in direction."
    unmatched = [each for each in found.values() if not each.matched]
    for each in unmatched:
        sentence = (
            f"Feature {each.best.index} is the best there is in …60, but not a match"
            if each.best
            else "No feature of …60"
        )
        assert verdict(each, "…60", by_activity=True).startswith(sentence)
    assert unmatched
