"""The sentences of a feature's page, which the site, a frame and the static export share."""

from dataclasses import replace

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.features import CoactiveFeature, FeatureDetail, get_feature
from app.queries.saes import SaeDetail
from app.queries.sql.visibility import Reader
from app.web.components.feature_view import FeatureView, SiteLinks, feature_view
from app.web.components.formatting import NARROW_SPACE
from tests.factories import Synthetic, add_label

IMPORTED = {"counted_by": "somebody else"}


@pytest.fixture
async def detail(session: AsyncSession, made: Synthetic) -> FeatureDetail:
    found = await get_feature(session, made.sae, 1)
    assert found is not None
    return replace(found, density=0.25, tokens=2_000, count=500, max=12.5)


def view(sae: SaeDetail, detail: FeatureDetail, *, imported: bool = False) -> FeatureView:
    if imported:
        assert sae.index is not None
        sae = replace(sae, index=replace(sae.index, provenance=IMPORTED))
    return feature_view(sae, detail, [], links=SiteLinks(sae, detail.index))


def test_the_heading_of_a_feature_without_a_label_is_its_top_tokens(made: Synthetic, detail: FeatureDetail) -> None:
    heading = view(made.sae, detail).heading
    assert (heading.label, heading.tokens) == ("", detail.top_tokens[:3])
    assert heading.sentence == (
        f"Fires on 25.0{NARROW_SPACE}% of 2,000 tokens of Made-up sentences, up to 12.5. "
        "Nobody has labelled it yet; these are its top tokens."
    )
    silent = view(made.sae, replace(detail, count=0, top_tokens=())).heading
    assert silent.sentence == "Never active on 2,000 tokens of Made-up sentences. Nobody has labelled it yet."


async def test_the_heading_of_a_labelled_feature_is_its_newest_submitted_label(
    session: AsyncSession, made: Synthetic
) -> None:
    await add_label(session, made.sae, 1, "rivers")
    draft = await add_label(session, made.sae, 1, "perhaps lakes", author="grace", status="draft")
    found = await get_feature(session, made.sae, 1, reader=Reader(draft.person_id))
    assert found is not None
    assert len(found.labels) == 2
    heading = view(made.sae, found).heading
    assert heading.label == "rivers"
    assert "Nobody" not in heading.sentence


def test_a_page_without_examples_says_why(made: Synthetic, detail: FeatureDetail) -> None:
    dead = replace(detail, count=0)
    assert view(made.sae, dead).nothing_to_show.startswith(
        "This feature is dead: it was not active on any of the 2,000"
    )
    assert "that the export counted" in view(made.sae, dead, imported=True).nothing_to_show
    assert view(made.sae, detail).nothing_to_show == "There is no example of this feature."
    assert view(made.sae, detail, imported=True).nothing_to_show == "The export has no example of this feature."


def test_notes_of_an_imported_index_name_the_export(made: Synthetic, detail: FeatureDetail) -> None:
    counted, imported = view(made.sae, detail), view(made.sae, detail, imported=True)
    assert "five parts of equal number" in counted.bands_note
    assert "as the export has them" in imported.bands_note
    assert "export" not in counted.tokens_note
    assert "all that the export has" in imported.tokens_note


def test_the_note_of_a_coactive_feature_has_both_shares() -> None:
    note = FeatureView.coactive_note(CoactiveFeature(2, None, pmi=1.5, joint=1_200, given_this=0.5, given_other=0.25))
    assert note == (
        f"On 1,200 tokens: 50.0{NARROW_SPACE}% of this feature's, 25.0{NARROW_SPACE}% of the other's. "
        "Pointwise mutual information 1.50."
    )
