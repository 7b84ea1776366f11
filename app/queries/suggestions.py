"""Suggestions of machines for labels, and the answers that were paid for."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from itertools import islice
from typing import Any, Literal

from sqlalchemy import exists, func, literal, select, update
from sqlalchemy.dialects.postgresql import distinct_on, insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.activity import count_changes
from app.queries.saes import SaeDetail
from app.queries.sql.expressions import in_array, submitted
from app.queries.sql.pg_safe import clean_json, clean_text, is_id
from app.tables import Feature, Label, LlmAnswer, Suggestion

Source = Literal["model", "statistics"]


@dataclass(frozen=True, slots=True)
class SuggestionView:
    """One suggestion, or why a machine gave none: then `text` is None, and `error` says it."""

    id: int | None
    """None for a sentence from the statistics of this moment, which is stored nowhere."""
    feature: int
    source: Source
    model: str
    """Empty for a sentence from statistics."""
    prompt: str
    """Hash of the prompt's template; empty for a sentence from statistics."""
    text: str | None
    error: str | None
    scores: Mapping[str, Any] | None
    index_id: int | None
    """The index whose statistics and examples it is from; None once that is deleted."""
    run: int | None
    created_at: datetime | None


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """One answer of an endpoint with its cost in tokens; not `finished` if it was cut off at the limit of tokens."""

    text: str
    finished: bool
    tokens_in: int
    tokens_out: int


@dataclass(frozen=True, slots=True)
class NewSuggestion:
    """A suggestion to write, or why there is none: exactly one of `text` and `error` is set. As `Suggestion` has it."""

    key: str
    source: Source
    model: str = ""
    prompt: str = ""
    text: str | None = None
    error: str | None = None


async def put_suggestion(
    session: AsyncSession, sae: SaeDetail, feature: int, suggestion: NewSuggestion, *, run_id: int
) -> int:
    """Write a suggestion and return its id; one of the same request becomes the newest."""
    content = {
        "text": None if suggestion.text is None else clean_text(suggestion.text),
        "error": None if suggestion.error is None else clean_text(suggestion.error),
        "index_id": None if sae.index is None else sae.index.id,
        "run_id": run_id,
    }
    origin = {name: getattr(suggestion, name) for name in ("key", "source", "model", "prompt")}
    new = insert(Suggestion).values(sae_id=sae.id, feature=feature, **origin, **content)
    written = new.on_conflict_do_update(
        index_elements=["sae_id", "feature", "key"], set_={**content, "created_at": func.now()}
    ).returning(Suggestion.id)
    number = await session.scalar(written)
    assert number is not None
    await count_changes(session, sae.id)
    return number


_ADDED_AT_ONCE = 1000


async def add_suggestions(
    session: AsyncSession, sae: SaeDetail, found: Iterable[tuple[int, str, str]], *, run_id: int
) -> int:
    """Write many suggestions of machines elsewhere (feature, model, text); return the number of new ones."""
    added = 0
    left = iter(found)
    while chunk := list(islice(left, _ADDED_AT_ONCE)):
        rows = [
            {
                "sae_id": sae.id,
                "feature": feature,
                "key": sha256(f"{model}\n{text}".encode()).hexdigest(),
                "source": "model",
                "model": model,
                "prompt": "",
                "text": text,
                "index_id": None if sae.index is None else sae.index.id,
                "run_id": run_id,
            }
            for feature, model, text in chunk
        ]
        new = insert(Suggestion).values(rows).on_conflict_do_nothing().returning(Suggestion.id)
        added += len((await session.scalars(new)).all())
    if added:
        await count_changes(session, sae.id)
    return added


async def put_scores(session: AsyncSession, sae_id: int, suggestion_id: int, scores: Mapping[str, Any]) -> None:
    """Write how well a suggestion predicts its feature."""
    written = update(Suggestion).where(Suggestion.id == suggestion_id).values(scores=clean_json(scores))
    await session.execute(written, execution_options={"synchronize_session": False})
    await count_changes(session, sae_id)


async def list_suggestions(session: AsyncSession, sae_id: int, feature: int) -> list[SuggestionView]:
    """Return the newest suggestion of each source and model for a feature, models first, the newest first."""
    newest = (
        select(Suggestion.id)
        .ext(distinct_on(Suggestion.source, Suggestion.model))
        .where(Suggestion.sae_id == sae_id, Suggestion.feature == feature)
        .order_by(Suggestion.source, Suggestion.model, Suggestion.created_at.desc(), Suggestion.id.desc())
    )
    rows = await session.scalars(
        select(Suggestion)
        .where(Suggestion.id.in_(newest))
        .order_by(Suggestion.source, Suggestion.created_at.desc(), Suggestion.id.desc())
        .execution_options(populate_existing=True)
    )
    return [_view(row) for row in rows]


async def get_suggestion(session: AsyncSession, sae_id: int, feature: int, number: int) -> SuggestionView | None:
    """Return a suggestion of this feature; None if it has none of this id."""
    row = await session.get(Suggestion, number) if is_id(number) else None
    return _view(row) if row is not None and (row.sae_id, row.feature) == (sae_id, feature) else None


async def suggestion_of_text(session: AsyncSession, sae_id: int, feature: int, text: str) -> int | None:
    """Return the newest suggestion for a feature that has these words; None if there is none."""
    own = select(Suggestion.id).where(
        Suggestion.sae_id == sae_id, Suggestion.feature == feature, Suggestion.text == text
    )
    return await session.scalar(own.order_by(Suggestion.id.desc()).limit(1))


async def suggested_texts(session: AsyncSession, sae_id: int, features: Collection[int]) -> dict[int, SuggestionView]:
    """Return one suggestion per feature: the newest of a model, else that from statistics; others are absent."""
    rows = await session.scalars(
        select(Suggestion)
        .ext(distinct_on(Suggestion.feature))
        .where(Suggestion.sae_id == sae_id, in_array(Suggestion.feature, features), Suggestion.text.is_not(None))
        .order_by(Suggestion.feature, Suggestion.source, Suggestion.created_at.desc(), Suggestion.id.desc())
        .execution_options(populate_existing=True)
    )
    return {row.feature: _view(row) for row in rows}


async def features_to_suggest(session: AsyncSession, sae: SaeDetail, count: int) -> list[int]:
    """Return features that nobody has labelled, the most frequent first, without those that are dense or dead."""
    if sae.index is None:
        return []
    labelled = exists().where(Label.sae_id == sae.id, Label.feature == Feature.number, submitted)
    dense = Feature.health.bool_op("@>")(literal(["dense"], Feature.health.type))
    wanted = select(Feature.number).where(Feature.index_id == sae.index.id, Feature.count > 0, ~labelled, ~dense)
    return list(await session.scalars(wanted.order_by(Feature.density.desc(), Feature.number).limit(count)))


async def live_features(session: AsyncSession, sae: SaeDetail) -> list[int]:
    """Return the features that are active on some token of the index, by number."""
    if sae.index is None:
        return []
    live = select(Feature.number).where(Feature.index_id == sae.index.id, Feature.count > 0)
    return list(await session.scalars(live.order_by(Feature.number)))


async def find_answer(session: AsyncSession, key: str) -> ModelAnswer | None:
    """Return the answer to the request with this hash, if it was paid for."""
    row = await session.get(LlmAnswer, key)
    return None if row is None else ModelAnswer(row.text, row.finished, row.tokens_in, row.tokens_out)


async def keep_answer(session: AsyncSession, key: str, model: str, answer: ModelAnswer) -> None:
    """Keep an answer, so that it is not paid for again."""
    values = {
        "text": clean_text(answer.text),
        "finished": answer.finished,
        "tokens_in": answer.tokens_in,
        "tokens_out": answer.tokens_out,
    }
    await session.execute(insert(LlmAnswer).values(key=key, model=model, **values).on_conflict_do_nothing())


def _view(row: Suggestion) -> SuggestionView:
    return SuggestionView(
        id=row.id,
        feature=row.feature,
        source="model" if row.source == "model" else "statistics",
        model=row.model,
        prompt=row.prompt,
        text=row.text,
        error=row.error,
        scores=row.scores,
        index_id=row.index_id,
        run=row.run_id,
        created_at=row.created_at,
    )
