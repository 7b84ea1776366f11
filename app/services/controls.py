"""Controls of interventions: the same done to something random, which tells an effect of the feature from any push."""

from typing import Literal

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Unprocessable
from app.queries.features import like_in_mass
from app.queries.saes import SaeDetail
from app.services.generation import Change, Wish
from app.services.saes import find_sae

Control = Literal["feature", "direction"]


async def control_of(session: AsyncSession, sae: SaeDetail, wish: Wish, kind: Control) -> list[Change]:
    """Return the same interventions on something random, drawn with the wish's seed.

    `feature`: each feature becomes one of about the same sum of activations over the index. `direction`: each goes
    along a random direction of the same norm. A direction becomes a random direction in both.

    Raises:
        Unprocessable: there is no index, or a feature was never active in it.
        NotFound: there is no such SAE.
    """
    controls: list[Change] = []
    for place, (slug, change) in enumerate(wish.interventions):
        if kind == "direction" or change.feature is None:
            controls.append((slug, change.model_copy(update={"random_direction": wish.seed + place})))
            continue
        own = await named_sae(session, sae, slug)
        other = await like_in_mass(session, own, change.feature, wish.seed)
        if other is None:
            raise Unprocessable(
                f"There is no random feature of equal activation mass for feature {change.feature}: that needs an "
                "index in which it is active. Compare with a random direction."
            )
        controls.append((slug, change.model_copy(update={"feature": other})))
    return controls


async def named_sae(session: AsyncSession, sae: SaeDetail, slug: str | None) -> SaeDetail:
    """Return the SAE of an intervention: `sae`, or another that it names."""
    return sae if slug in (None, sae.slug) else await find_sae(session, slug or "")
