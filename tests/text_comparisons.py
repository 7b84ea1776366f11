"""A comparison of two labels of a set as a run would have stored it, with text that wants to be markup."""

from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.saes import SaeDetail
from app.queries.text_comparisons import NewTextComparison, add_text_comparison
from app.queries.text_readings import NewReading, put_reading
from app.queries.text_sets import TextSetView
from tests.text_sets import make_text_set

INTERVAL = [0.5, 0.7]


def detail(**changed: Any) -> dict[str, Any]:
    """Return what a comparison keeps beside its features."""
    side = {"texts": 40, "chosen": 30, "test": 10, "tokens": 400, "truncated": 0, "repeated": 0, "hash": "h"}
    word = {"word": "<i>happy</i>", "auroc": 1.0, "interval": [0.9, 1.0], "q": 1e-12, "rate_a": 1.0, "rate_b": 0.0}
    return {
        "sides": {"a": side, "b": side},
        "shared": 0,
        "pool": "max",
        "tokens": "all",
        "max_tokens": 512,
        "features": 64,
        "tested": 5,
        "differ": 4,
        "differ_a": 3,
        "differ_b": 1,
        "same_side": 3,
        "length": {
            "auroc": 0.61,
            "interval": INTERVAL,
            "p": 0.03,
            "median_a": 11.0,
            "median_b": 10.0,
            "overlap": 0.8,
        },
        "words": [
            {**word, "test_auroc": 1.0},
            {**word, "word": "sad", "auroc": 0.0, "rate_a": 0.0, "rate_b": 1.0, "test_auroc": None},
        ],
        "words_tested": 9,
        "words_differ": 2,
        "classifiers": [
            {"name": name, "auroc": auroc, "interval": [auroc - 0.1, min(1.0, auroc + 0.05)]}
            for name, auroc in [
                ("words", 1.0),
                ("features", 0.87),
                ("activations", 0.83),
                ("feature", 0.8),
                ("length", 0.6),
            ]
        ],
        "notes": ["3 texts that repeat another of their side were left out."],
        **changed,
    }


def feature_row(feature: int, auroc: float, **changed: Any) -> dict[str, Any]:
    """Return the figures of one feature."""
    rates = {"rate_a": 0.8, "rate_b": 0.2, "active_a": 24, "active_b": 6, "difference": 0.6, "lift": 4.0}
    return {
        "feature": feature,
        **rates,
        "auroc": auroc,
        "auroc_low": max(0.0, auroc - 0.1),
        "auroc_high": min(1.0, auroc + 0.1),
        "difference_low": 0.4,
        "difference_high": 0.75,
        "d": 1.2,
        "p": 1e-5,
        "q": 1e-4,
        "test_auroc": auroc,
        "test_low": max(0.0, auroc - 0.2),
        "test_high": min(1.0, auroc + 0.2),
        "matched_auroc": auroc,
        "token_id": 3,
        "token_share": 0.2,
        "first_share": 0.0,
        "last_share": 0.0,
        "examples": [
            {"side": "a", "text": 0, "start": 0, "peak": 1, "tokens": [5, 6, 7], "values": [0.0, 2.0, 0.5]},
            {"side": "b", "text": 1, "start": 4, "peak": 0, "tokens": [8, 9], "values": [1.0, 0.0]},
        ],
        **changed,
    }


FEATURES = [
    feature_row(1, 0.95),
    feature_row(2, 0.9, token_share=0.97),
    feature_row(3, 0.2, rate_a=0.1, rate_b=0.6, difference=-0.5, lift=None, first_share=1.0),
    feature_row(0, 0.7, matched_auroc=0.52, test_auroc=0.45),
    feature_row(4, 0.51, q=0.9, p=0.8, examples=None, test_auroc=None, test_low=None, test_high=None, d=None),
]


async def make_reading(session: AsyncSession, sae: SaeDetail, view: TextSetView) -> None:
    """Store that an SAE has read a set; feature 1 is active on four texts."""
    reading = NewReading(
        sae_id=sae.id,
        set_id=view.id,
        max_tokens=512,
        key="0" * 20,
        set_hash=view.hash,
        texts=view.counts.texts,
        tokens=900,
        truncated=0,
        note="",
        run_id=None,
    )
    await put_reading(session, reading, [(1, [0, 2, 4, 5], [1.0, 2.0, 3.0, 0.5])])


async def make_text_comparison(
    session: AsyncSession, sae: SaeDetail, *, name: str = "moods", offensive: bool = False
) -> tuple[int, TextSetView]:
    """Store a set, what an SAE made of it, and a comparison of its labels; the comparison's id, and the set."""
    view = await make_text_set(session, name, offensive=offensive)
    await make_reading(session, sae, view)
    new = NewTextComparison(
        sae_id=sae.id,
        a_set_id=view.id,
        a_label="happy",
        b_set_id=view.id,
        b_label="sad",
        detail=detail(),
        run_id=None,
    )
    return await add_text_comparison(session, new, FEATURES), view
