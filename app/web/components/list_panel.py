"""The lists that hold a feature, and the form that adds it to one, as the feature's page shows them."""

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from app.queries import lists as queries
from app.queries.lists import FeatureLists
from app.queries.saes import SaeDetail


@dataclass(frozen=True, slots=True)
class AddForm:
    """What the form on a feature's page holds: the list that is chosen, or none and the name of a new one."""

    chosen: str
    name: str = ""
    note: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class ListsPanel:
    """Lists on a feature's page; `added` is the name of the one that it was just added to."""

    lists: FeatureLists
    form: AddForm
    added: str = ""


async def lists_panel(session: AsyncSession, sae: SaeDetail, index: int) -> ListsPanel:
    """What the control of a feature's page needs: its form offers the list that changed last."""
    found = await queries.lists_of_feature(session, sae.id, index)
    return ListsPanel(found, AddForm(found.others[0].public_id if found.others else ""))
