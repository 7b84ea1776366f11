"""An SAE's overview: architecture, quality, distribution of features, and provenance."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from app.queries.runs import get_run, metrics
from app.queries.saes import SaeDetail
from app.services.absorption import absorption_verdict, read_absorption
from app.services.evaluation import evaluate_command
from app.web.components import figures, glossary
from app.web.components.interpretability_view import interpretability_view
from app.web.components.probing_view import probing_view
from app.web.dependencies import AppSettings, Sae, Session
from app.web.rendering import render

router = APIRouter()


@dataclass(frozen=True, slots=True)
class _Flag:
    name: str
    meaning: str
    count: int
    href: str


@router.get("/saes/{sae}")
async def overview(request: Request, sae: Sae, session: Session, settings: AppSettings) -> HTMLResponse:
    """Show the overview of one SAE."""
    run = await get_run(session, sae.config["run"]) if isinstance(sae.config.get("run"), int) else None
    measures, more_measures = glossary.measures(sae.metrics)
    context = {
        "sae": sae,
        "measures": measures,
        "more_measures": more_measures,
        "probing": probing_view(sae.metrics),
        "interpretability": interpretability_view(sae.metrics),
        "absorption": absorption_verdict(read_absorption(sae.metrics)),
        "absorption_command": evaluate_command(sae, "--absorption"),
        "interpret_command": evaluate_command(sae, "--interpret", "64"),
        "has_labeller": settings.llm_url is not None,
        "probing_command": evaluate_command(sae, "--probing", "builtin"),
        "density": figures.density_histogram(sae.index.densities) if sae.index else None,
        "redundancy": figures.redundancy_histogram(sae.index.redundancies)
        if sae.index and any(sae.index.redundancies)
        else None,
        "health": _health(sae, sae.index.health) if sae.index else [],
        "run": run,
        "curves": figures.training_curves(await metrics(session, run.id), only=sae.slug) if run else [],
    }
    return render(request, "saes/page.html", context)


Axes = Literal["directions", "rate"]
Colour = Literal["density", "max", "effect", "labels", "topic"]


@router.get("/saes/{sae}/map")
async def feature_map(request: Request, sae: Sae, axes: Axes | None = None, colour: Colour = "density") -> HTMLResponse:
    """Show all features as points, which come from the API."""
    axes = axes or ("directions" if sae.has_weights else "rate")
    return render(request, "saes/map.html", {"sae": sae, "axes": axes, "colour": colour})


def _health(sae: SaeDetail, counts: Mapping[str, int]) -> list[_Flag]:
    """Return every known flag with its count, including zeros."""
    return [
        _Flag(glossary.health_name(flag), meaning, counts.get(flag, 0), f"/saes/{sae.slug}/features?health={flag}")
        for flag, meaning in glossary.health(sae).items()
    ]
