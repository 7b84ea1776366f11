"""A comparison of texts: the readings of both sides, what distinguishes them, and the rows that keep it."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from app.errors import Conflict
from app.pipeline.text_readings import SetReading, TextReader
from app.queries.models import vocabulary
from app.queries.text_comparisons import SIGNIFICANT, NewTextComparison, add_text_comparison
from app.runs.context import RunContext
from app.runs.job_context import JobContext
from app.services.text_comparisons import Side, Sides, find_sides
from sae_core.contrast import Contrast, compare_texts
from sae_core.readings import Reading, join_readings, select_texts

if TYPE_CHECKING:
    from app.pipeline.compare_texts import CompareTextsParams

_BEST = 20
"""Features in the result of a run."""


async def compare(run: RunContext, ctx: JobContext, params: "CompareTextsParams") -> dict[str, Any]:
    """Compare, keep the comparison, and return the run's result.

    Raises:
        NotFound, Unprocessable: as `find_sides`.
        Conflict: a set was replaced meanwhile.
    """
    reader = await TextReader.open(run, ctx, params.sae, max_tokens=params.max_tokens)
    async with ctx.sessions() as session:
        sides = await find_sides(session, params.a, params.b)
        token_bytes = await vocabulary(session, reader.detail.model)
    readings = [await _reading_of(reader, side) for side in (sides.a, sides.b)]
    reading = join_readings([own for own, _ in readings])
    texts = [*sides.a.texts, *sides.b.texts]
    is_a = np.arange(len(texts)) < len(sides.a.texts)
    async with run.stage("compare") as progress:
        found = await run.in_thread(
            compare_texts,
            reading,
            [text.text for text in texts],
            is_a,
            np.array([text.split == "test" for text in texts]),
            token_bytes,
            progress=progress,
        )
        notes = list(dict.fromkeys(note for _, note in readings if note))
        detail = _detail(params, sides, reading, is_a, found, notes)
        new = NewTextComparison(
            sae_id=reader.detail.id,
            a_set_id=sides.a.view.id,
            a_label=sides.a.label,
            b_set_id=sides.b.view.id,
            b_label=sides.b.label,
            detail=detail,
            run_id=run.run_id,
        )
        rows = list(_rows(found, [text.number for text in texts]))
        async with ctx.sessions.begin() as session:
            number = await add_text_comparison(session, new, rows)
    return {
        "sae": params.sae,
        "a": params.a,
        "b": params.b,
        "texts_a": len(sides.a.texts),
        "texts_b": len(sides.b.texts),
        "tested": detail["tested"],
        "differ": detail["differ"],
        "length_auroc": found.length.auroc,
        "best": [_brief(row) for row in sorted(rows, key=lambda row: -abs(row["auroc"] - 0.5))[:_BEST]],
        "comparison": number,
        "page": f"/saes/{params.sae}/compare-texts/{number}",
        **({"notes": detail["notes"]} if detail["notes"] else {}),
    }


async def _reading_of(reader: TextReader, side: Side) -> tuple[Reading, str]:
    """Return the reading of a side's texts, and what has to be said of it."""
    found: SetReading = await reader.read(side.view.name)
    if found.view.hash != side.view.hash:
        raise Conflict(f"The text set {side.view.name} was replaced while it was read. Compare again.")
    places = {text.number: place for place, text in enumerate(found.texts)}
    return select_texts(found.reading, [places[text.number] for text in side.texts]), found.note


def _detail(
    params: "CompareTextsParams",
    sides: Sides,
    reading: Reading,
    is_a: np.ndarray,
    found: Contrast,
    notes: Sequence[str],
) -> dict[str, Any]:
    differ = found.q < SIGNIFICANT
    chosen_a = found.chosen.auroc >= 0.5
    return {
        "sides": {
            name: {
                "texts": int(own.sum()),
                "chosen": found.chosen.n_a if name == "a" else found.chosen.n_b,
                "test": 0 if found.test is None else found.test.n_a if name == "a" else found.test.n_b,
                "tokens": int(reading.lengths[own].sum()),
                "truncated": int(reading.truncated[own].sum()),
                "repeated": side.repeated,
                "hash": side.view.hash,
            }
            for name, side, own in (("a", sides.a, is_a), ("b", sides.b, ~is_a))
        },
        "shared": sides.shared,
        "pool": "max",
        "tokens": "all",
        "max_tokens": params.max_tokens,
        "features": reading.d_sae,
        "tested": len(found.features),
        "differ": int(differ.sum()),
        "differ_a": int((differ & chosen_a).sum()),
        "differ_b": int((differ & ~chosen_a).sum()),
        "same_side": None if found.test is None else int((differ & (chosen_a == (found.test.auroc > 0.5))).sum()),
        "length": asdict(found.length),
        "words": [asdict(word) for word in found.words],
        "words_tested": found.words_tested,
        "words_differ": found.words_differ,
        "classifiers": [asdict(baseline) for baseline in found.classifiers],
        "notes": [*notes, *_notes(sides, reading, params.max_tokens, found)],
    }


def _notes(sides: Sides, reading: Reading, max_tokens: int, found: Contrast) -> Iterator[str]:
    if sides.shared:
        yield f"Left out, because both sides have them: {_texts(sides.shared)}."
    repeated = sides.a.repeated + sides.b.repeated
    if repeated:
        yield f"Left out, because they repeat the words of another of their side: {_texts(repeated)}."
    truncated = int(reading.truncated.sum())
    if truncated:
        yield f"Read up to {max_tokens} tokens only, because they are longer: {_texts(truncated)}."
    if found.test is None:
        yield "Too few texts are held out to test on, so all of them choose: figures will shrink on new texts."
    if found.matched is None:
        yield "No text of one side is about as long as one of the other, so nothing can be matched by length."


def _texts(number: int) -> str:
    return f"{number:,} {'text' if number == 1 else 'texts'}"


def _rows(found: Contrast, numbers: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Yield the row of each feature that was tested; `numbers` are those of the texts in their sets."""
    chosen, rates, test, habits = found.chosen, found.rates, found.test, found.habits
    columns = {
        "feature": found.features,
        "active_a": chosen.active_a,
        "active_b": chosen.active_b,
        "auroc": chosen.auroc,
        "auroc_low": chosen.low,
        "auroc_high": chosen.high,
        "rate_a": rates.a,
        "rate_b": rates.b,
        "difference": rates.difference,
        "difference_low": rates.low,
        "difference_high": rates.high,
        "lift": rates.lift,
        "d": found.d,
        "p": chosen.p,
        "q": found.q,
        "test_auroc": None if test is None else test.auroc,
        "test_low": None if test is None else test.low,
        "test_high": None if test is None else test.high,
        "matched_auroc": found.matched,
        "token_id": habits.token,
        "token_share": habits.token_share,
        "first_share": habits.first_share,
        "last_share": habits.last_share,
    }
    values = {
        name: [None] * len(found.features) if column is None else column.tolist() for name, column in columns.items()
    }
    for place in range(len(found.features)):
        row: dict[str, Any] = {name: column[place] for name, column in values.items()}
        examples = found.examples.get(row["feature"])
        if examples is not None:
            row["examples"] = [{**example, "text": numbers[example["text"]]} for example in examples]
        yield row | ({"examples": None} if examples is None else {})


def _brief(row: dict[str, Any]) -> dict[str, Any]:
    names = ("feature", "auroc", "test_auroc", "rate_a", "rate_b", "lift", "p", "q", "token_share")
    return {name: row[name] for name in names}
