"""The lists that hold a feature, and the form that adds it to one, as the feature's page shows them."""

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from app.queries import lists as queries
from app.queries.lists import FeatureLists
from app.queries.saes import SaeDetail
from app.services.actors import Actor, Role


@dataclass(frozen=True, slots=True)
class AddForm:
    """Values of the form on a feature's page: the chosen list, or none and the name of a new one."""

    chosen: str
    name: str = ""
    note: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class ListsPanel:
    """Lists on a feature's page; `added` is the name of the list to which it was just added."""

    lists: FeatureLists
    form: AddForm
    added: str = ""


NO_LISTS = ListsPanel(FeatureLists((), ()), AddForm(""))
"""The panel while nobody has made a list."""


async def lists_panel(session: AsyncSession, sae: SaeDetail, index: int, actor: Actor) -> ListsPanel:
    """Return the panel of a feature; its form offers the lists that the actor may change, last changed first."""
    changes_all = actor.role >= Role.reviewer
    found = await queries.lists_of_feature(
        session, sae.id, index, owner_id=None if changes_all else actor.person_id or 0
    )
    return ListsPanel(found, AddForm(found.others[0].public_id if found.others else ""))
