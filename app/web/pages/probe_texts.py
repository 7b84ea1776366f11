"""Many texts: pasted or from a file, each probed alone, as a table of features by text, and as files to download.

They come by POST and are not kept: each page of the result, and each download, sends them again.
"""

import io
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, File, Form, Request, UploadFile
from fastapi.responses import HTMLResponse, Response, StreamingResponse
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import NoWeights, TooLarge, Unprocessable, UserError
from app.queries.examples import best_examples
from app.queries.saes import SaeDetail
from app.services.inference import InferenceClient
from app.services.inference_messages import RankBy
from app.services.probe_texts import (
    CSV,
    MAX_TEXTS,
    NDJSON,
    TextFeature,
    TextFindings,
    check_texts,
    csv_rows,
    ndjson_rows,
    probe_texts,
)
from app.services.text_files import texts_of
from app.services.texts import unix_lines
from app.web.components import example_lines, token_text
from app.web.components.prompts import RANKS
from app.web.dependencies import AppSettings, Inference, Sae, Session
from app.web.rendering import render, wants_fragment

router = APIRouter()

PER_PAGE = 25
_MAX_BYTES = 900_000
_ALL = 10_000
"""Features per text behind the table: all that are active."""
_ROWS = 40
_SNIPPET = {"before": 6, "after": 4}

Kind = Literal["txt", "jsonl", "csv"]
KINDS: dict[Kind, str] = {"txt": "one text per line", "jsonl": "JSON lines", "csv": "CSV with a column “text”"}


@dataclass(frozen=True, slots=True)
class TextsForm:
    """Texts as they were sent, how they are written, and what is asked of them."""

    text: str = ""
    kind: Kind = "txt"
    name: str = "The text"
    rank_by: RankBy = "percentile"
    top: int = 10
    start: int = 0

    @property
    def fields(self) -> list[tuple[str, str]]:
        """Return names and values with which the same is asked again."""
        numbers = [("top", str(self.top)), ("start", str(self.start))]
        return [("text", self.text), ("kind", self.kind), ("rank_by", self.rank_by), *numbers]

    def texts(self) -> list[str]:
        """Return the texts.

        Raises:
            Unprocessable, TooLarge: they cannot be read, or are too many or too long together.
        """
        if len(self.text.encode(errors="replace")) > _MAX_BYTES:
            raise TooLarge(f"The texts have more than {_MAX_BYTES // 1000} kB together. Cut them into several files.")
        found = texts_of(io.StringIO(self.text), self.name, MAX_TEXTS, self.kind)
        check_texts(found)
        return found


@dataclass(frozen=True, slots=True)
class Cell:
    """A feature on a text: `shade` is its share of the row's maximum."""

    activation: float
    shade: int


@dataclass(frozen=True, slots=True)
class FeatureRow:
    """A feature over the texts of a page, None where it is silent; `leading` texts have it among their first ones."""

    feature: TextFeature
    snippet: example_lines.Line | None
    leading: int
    cells: list[Cell | None]
    max: float


async def _form(
    text: Annotated[str, Form()] = "",
    kind: Annotated[Kind, Form()] = "txt",
    rank_by: Annotated[RankBy, Form()] = "percentile",
    top: Annotated[int, Form(ge=1, le=100)] = 10,
    start: Annotated[int, Form(ge=0, le=MAX_TEXTS)] = 0,
    file: Annotated[UploadFile | None, File()] = None,
) -> TextsForm:
    """Return the form; a file replaces what the field says, and its name says how it is written."""
    if file is None or not file.filename:
        return TextsForm(unix_lines(text), kind, "The text", rank_by, top, start)
    suffix = file.filename.rpartition(".")[2].lower()
    by_name: Kind = next((one for one in KINDS if one == suffix), "txt")
    try:
        content = (await file.read()).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unprocessable(f"{file.filename[:80]} is not UTF-8 text: {error.reason}. Convert it first.") from None
    return TextsForm(unix_lines(content), by_name, file.filename[:80], rank_by, top, start)


@router.get("/saes/{sae}/probe/texts")
async def texts_form(request: Request, sae: Sae, settings: AppSettings) -> HTMLResponse:
    """Show the form without a result."""
    if not sae.has_weights:
        raise NoWeights(sae.slug)
    return render(request, "probe/texts.html", _context(sae, settings.probe_max_tokens, TextsForm()))


@router.post("/saes/{sae}/probe/texts")
async def run_texts(
    request: Request,
    sae: Sae,
    session: Session,
    inference: Inference,
    settings: AppSettings,
    form: Annotated[TextsForm, Depends(_form)],
) -> HTMLResponse:
    """Probe the texts of one page of the result."""
    template = "probe/_texts_result.html" if wants_fragment(request) else "probe/texts.html"
    context = _context(sae, settings.probe_max_tokens, form)
    try:
        context |= await _found(request, session, inference, sae, form)
    except UserError as error:
        return render(request, template, {**context, "error": error}, status=error.status)
    return render(request, template, context)


@router.post("/saes/{sae}/probe/texts/{format}")
async def download(
    request: Request,
    sae: Sae,
    inference: Inference,
    format: Literal["csv", "jsonl"],
    form: Annotated[TextsForm, Depends(_form)],
) -> Response:
    """Stream the first features of all texts as a file."""
    media_type, write = (CSV, csv_rows) if format == "csv" else (NDJSON, ndjson_rows)
    rows = _rows(request, inference, sae, form.texts(), form.top, form.rank_by)
    first = await anext(rows)  # what is not available is refused before the answer begins
    name = f"{sae.slug}-probe.{format}"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(write(first, rows), media_type=media_type, headers=headers)


def _rows(
    request: Request, inference: InferenceClient, sae: SaeDetail, texts: list[str], top: int, rank_by: RankBy
) -> AsyncGenerator[TextFindings]:
    sessions = request.app.state.sessionmaker  # the answer goes on after the request's own session has ended
    return probe_texts(sessions, inference, sae, texts, top_k=top, rank_by=rank_by)


async def _found(
    request: Request, session: AsyncSession, inference: InferenceClient, sae: SaeDetail, form: TextsForm
) -> dict[str, Any]:
    texts = form.texts()
    start = form.start if form.start < len(texts) else 0
    shown = texts[start : start + PER_PAGE]
    await session.commit()  # no connection is held while the texts are read
    async with aclosing(_rows(request, inference, sae, shown, _ALL, form.rank_by)) as rows:
        found = [row async for row in rows]
    return {
        "texts": texts,
        "start": start,
        "rows": list(zip(shown, found, strict=True)),
        "features": await _features(session, sae, found, form.top),
        "previous": max(0, start - PER_PAGE) if start else None,
        "next": start + PER_PAGE if start + PER_PAGE < len(texts) else None,
    }


async def _features(session: AsyncSession, sae: SaeDetail, found: list[TextFindings], top: int) -> list[FeatureRow]:
    """Return the features that lead most texts, on every text."""
    by_index = {feature.index: feature for row in found for feature in row.features[:top]}
    leading = Counter(feature.index for row in found for feature in row.features[:top])
    chosen = [index for index, _count in leading.most_common(_ROWS)]
    best = await best_examples(session, sae, [index for index in chosen if by_index[index].label is None], **_SNIPPET)
    active = [{feature.index: feature.max for feature in row.features} for row in found]
    rows = []
    for index in chosen:
        values = [one.get(index) for one in active]
        largest = max(value for value in values if value is not None)
        rows.append(
            FeatureRow(
                feature=by_index[index],
                snippet=example_lines.cut(view, view.activation) if (view := best.get(index)) else None,
                leading=leading[index],
                cells=[None if value is None else Cell(value, token_text.step(value, largest)) for value in values],
                max=largest,
            )
        )
    return rows


def _context(sae: SaeDetail, limit: int, form: TextsForm) -> dict[str, Any]:
    return {
        "sae": sae,
        "form": form,
        "kinds": KINDS,
        "ranks": RANKS,
        "limit": limit,
        "max_texts": MAX_TEXTS,
        "max_kb": _MAX_BYTES // 1000,
        "error": None,
        "rows": None,
    }
