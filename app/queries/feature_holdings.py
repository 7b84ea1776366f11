"""Which kinds of things people and runs have written about a feature: one query that saves asking for each of them."""

from dataclasses import dataclass

from sqlalchemy import BindParameter, bindparam, exists, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.tables import (
    Activity,
    Comment,
    Comparison,
    FeatureEffect,
    Label,
    LabelDecision,
    LabelDraft,
    LabelSet,
    SavedList,
    Suggestion,
)


@dataclass(frozen=True, slots=True)
class FeatureHoldings:
    """False where a query for this kind would find nothing, whoever reads; True says only that it has to be asked."""

    labels: bool = True
    decisions: bool = True
    suggestions: bool = True
    effect: bool = True
    comments: bool = True
    activity: bool = True
    drafts: bool = True
    lists: bool = True
    """There is a list, which may hold the feature or be offered for it."""
    comparisons: bool = True
    """The SAE was compared with another."""


ANYTHING = FeatureHoldings()
"""Nobody has looked."""


async def feature_holdings(session: AsyncSession, sae_id: int, feature: int) -> FeatureHoldings:
    """Return what there is about a feature. Nobody's rights are looked at: a page must not show this."""
    return FeatureHoldings(*(await session.execute(_HOLDINGS, {"sae": sae_id, "feature": feature})).one())


_sae: BindParameter[int] = bindparam("sae")
_feature: BindParameter[int] = bindparam("feature")
_in_a_set = LabelSet.sae_id == _sae
_on_a_whole_set = (  # in the index's order, so that Postgres looks only there
    select(Activity.id)
    .where(Activity.sae_id == _sae, Activity.feature.is_(None))
    .order_by(Activity.feature.desc(), Activity.id.desc())
)
_HOLDINGS = select(
    exists().where(Label.sae_id == _sae, Label.feature == _feature),
    exists().where(_in_a_set, LabelDecision.label_set_id == LabelSet.id, LabelDecision.feature == _feature),
    exists().where(Suggestion.sae_id == _sae, Suggestion.feature == _feature),
    exists().where(FeatureEffect.sae_id == _sae, FeatureEffect.feature == _feature),
    exists().where(_in_a_set, Comment.label_set_id == LabelSet.id, Comment.feature == _feature),
    or_(
        exists().where(Activity.sae_id == _sae, Activity.feature == _feature),
        _on_a_whole_set.limit(1).scalar_subquery().is_not(None),
    ),
    exists().where(_in_a_set, LabelDraft.label_set_id == LabelSet.id, LabelDraft.feature == _feature),
    exists().select_from(SavedList),
    exists().where(or_(Comparison.a_id == _sae, Comparison.b_id == _sae)),
)
