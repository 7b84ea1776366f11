"""GET /saes/{sae}/map: every feature as a point."""

import asyncio
from collections.abc import Iterable
from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from app.errors import NotFound
from app.problems import documented
from app.queries.feature_maps import FeaturePoints, feature_points, map_settings
from app.web.caching import PAGE_HEADERS, make_etag, raise_if_not_modified
from app.web.dependencies import Sae, Session

router = APIRouter(prefix="/api/v1/saes", tags=["SAEs"])


class PointsOut(BaseModel):
    """All features of the published index, in columns of equal length."""

    index: list[int]
    x: Annotated[list[float] | None, Field(description="Position on the map; null until the map has been drawn.")]
    y: Annotated[list[float] | None, Field(description="The axes have no meaning; near features are similar.")]
    density: list[float]
    max: list[float]
    topic: Annotated[list[int], Field(description="Index in `topics` of its preferred topic; -1 for none.")]
    topics: list[str]
    labelled: Annotated[list[int], Field(description="Features with a submitted label.")]
    effect: Annotated[
        list[float | None], Field(description="Ratio of its effect to chance; null if that was not measured.")
    ]


@router.get("/{sae}/map", summary="All features as points", response_model=PointsOut, responses=documented(404))
async def get_map(request: Request, sae: Sae, session: Session) -> Response:
    """Return the features' positions on the map (UMAP over the cosines of decoder directions) and their colours."""
    drawn = await map_settings(session, sae)
    etag = make_etag(sae.id, sae.index and sae.index.id, sae.label_changes, drawn)
    raise_if_not_modified(request, etag)
    points = await feature_points(session, sae)
    if points is None:
        raise NotFound(f"{sae.slug} has no index yet, so there is nothing to draw. Runs shows if one is being made.")
    body = await asyncio.to_thread(_json, points)  # a hundred thousand features take a while
    return Response(body, media_type="application/json", headers={**PAGE_HEADERS, "ETag": etag})


def _json(points: FeaturePoints) -> str:
    return PointsOut(
        index=list(points.index),
        x=None if points.x is None else _round_values(points.x, ".3f"),
        y=None if points.y is None else _round_values(points.y, ".3f"),
        density=_round_values(points.density, ".4g"),
        max=_round_values(points.max, ".4g"),
        topic=list(points.topic),
        topics=list(points.topics),
        labelled=list(points.labelled),
        effect=[None if ratio is None else float(format(ratio, ".4g")) for ratio in points.effect],
    ).model_dump_json()


def _round_values(values: Iterable[float], form: str) -> list[float]:
    """Round to the precision of a screen, which saves two thirds of the bytes."""
    return [float(format(value, form)) for value in values]
