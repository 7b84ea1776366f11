"""SAEs by name: the message names those that there are."""

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app.errors import NotFound
from app.services import saes
from app.services.saes import find_sae, pick_sae
from tests.factories import make_sae


async def test_a_missing_sae_is_answered_with_the_names_that_there_are(
    engine: AsyncEngine, session: AsyncSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotFound, match=r"There is no SAE “one”\. Train one first\."):
        await find_sae(session, "one")
    first = (await make_sae(engine, slug="one", publish=False)).sae
    second = (await make_sae(engine, slug="two", publish=False)).sae
    assert await find_sae(session, "one") == first
    with pytest.raises(NotFound, match=r"There are: two, one\."):
        await find_sae(session, "no\0such")
    monkeypatch.setattr(saes, "_NAMES_IN_MESSAGE", 1)
    with pytest.raises(NotFound, match=r"There are: two, 1 more\."):
        pick_sae([second, first], "x" * 500)
    assert pick_sae([second, first], "one") == first
