"""A label set's dashboard: progress, agreement, pace, what is stuck, who needs a second look, labels that collide."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.responses import HTMLResponse

from app.queries.progress import DAYS, Progress, set_progress
from app.queries.sql.pg_safe import MAX_INTEGER
from app.services.actors import Role
from app.services.adjudication import find_set, list_disagreements
from app.services.dashboard import set_agreement, set_collisions
from app.web.dependencies import Actor, Session
from app.web.rendering import render

router = APIRouter()

_COLLISIONS = 20
"""Groups of features with one label that the page shows."""
_FEATURES = 12
"""Features of such a group that it names."""

SetId = Annotated[int, Path(ge=1, le=MAX_INTEGER)]


@router.get("/labelsets/{id}/agreement")
async def agreement(request: Request, id: SetId, session: Session, actor: Actor) -> HTMLResponse:
    """Show how a label set goes. A labeller sees their own numbers beside those of all, a reviewer everybody's."""
    of, sae = await find_set(session, id)
    progress = await set_progress(session, of)
    found = await set_agreement(session, of, actor)
    reviews = actor.role >= Role.reviewer
    shown = {person.person for person in found.report.people} if reviews else {actor.person_id}
    collisions = await set_collisions(session, of, actor)
    disagreements = await list_disagreements(session, of, actor)
    request.state.sae = sae.slug
    context: dict[str, Any] = {
        "set": of,
        "sae": sae,
        "progress": progress,
        "agreement": found,
        "report": found.report,
        "people": [person for person in progress.people if reviews or person.person_id == actor.person_id],
        "each": {person.person: person for person in found.report.people if person.person in shown},
        "pairs": [pair for pair in found.report.pairs if reviews or shown & set(pair.people)],
        "collisions": collisions,
        "groups": collisions.groups[:_COLLISIONS],
        "most_features": _FEATURES,
        "undecided": sum(entry.state != "decided" for entry in disagreements),
        "differing": len(disagreements),
        "reviews": reviews,
        "pace": _bars(progress),
        "days": DAYS,
    }
    return render(request, "agreement/page.html", context)


def _bars(progress: Progress) -> list[tuple[float, float]]:
    """Return the bars of the pace: where each begins from the left and its height, in a drawing of 100 × 100."""
    most = max((labels for _, labels in progress.days), default=0) or 1
    width = 100 / max(len(progress.days), 1)
    return [(round(place * width, 2), round(100 * labels / most, 1)) for place, (_, labels) in enumerate(progress.days)]
