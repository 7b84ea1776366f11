import math
from datetime import UTC, datetime, timedelta, timezone

import pytest

from app.web.components import formatting as f

THIN = f.NARROW_SPACE


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (12.345, "12.3"),
        (0.04219, "0.0422"),
        (1234.6, "1,235"),
        (0.9996, "1.00"),
        (9.996, "10.0"),
        (-0.314, "\u22120.314"),
        (3e-9, "3e\u22129"),
        (math.nan, "–"),
        (math.inf, "–"),
        (None, "–"),  # which the database keeps for both
    ],
)
def test_significant(value: float | None, text: str) -> None:
    assert f.significant(value) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0"), (0.0034, "0.34"), (0.000041, "0.0041"), (0.0999, "10"), (0.123, "12.3"), (0.9999, "99.99"), (1, "100")],
)
def test_percent(share: float, text: str) -> None:
    assert f.percent(share) == f"{text}{THIN}%"


@pytest.mark.parametrize(("share", "text"), [(1e-6, "0.0001"), (0.001, "0.1"), (0.1, "10"), (1.0, "100"), (0, "0")])
def test_round_percent(share: float, text: str) -> None:
    assert f.round_percent(share) == f"{text}{THIN}%"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.6, "1 min 0 s"), (65, "1 min 5 s"), (3725, "1 h 2 min")],
)
def test_duration(seconds: float, text: str) -> None:
    assert f.duration(seconds).replace(THIN, " ") == text


def test_percentile_says_100_only_for_more_than_all() -> None:
    assert f.percentile(99.99) == "99.9"
    assert f.percentile(100) == "100"
    assert f.percentile(0) == "0.0"


def test_moment_is_in_utc() -> None:
    tokyo = timezone(timedelta(hours=9))
    assert f.moment(datetime(2026, 11, 22, 8, 5, tzinfo=tokyo)) == "21 Nov 2026, 23:05 UTC"
    assert f.moment(datetime(2026, 11, 2, 8, 5, tzinfo=UTC)) == "2 Nov 2026, 08:05 UTC"


def test_a_timestamp_is_read_by_people_and_machines() -> None:
    at = datetime(2026, 11, 2, 8, 5, tzinfo=UTC)
    assert f.timestamp(at) == '<time datetime="2026-11-02T08:05:00+00:00">2 Nov 2026, 08:05 UTC</time>'
    assert f.timestamp(at, "small").startswith('<time class="small" datetime=')


def test_counts_and_units() -> None:
    assert f.plural(1, "feature") == "1 feature"
    assert f.plural(4096, "feature") == "4,096 features"
    assert f.signed(1.24) == "+1.24"
    assert f.signed(-0.31) == "\u22120.310"
    assert f.amount(92_900_000, "bytes") == f"92.9{THIN}MB"
    assert f.rate(3100.4, "tokens") == "3,100 tokens/s"
    assert f.plain(32.0) == "32"


def test_a_message_names_parameters_in_words() -> None:
    text = "Choose another `model_name`, or run `python -m pip` and `Say`."
    assert f.message(text) == "Choose another “model name”, or run `python -m pip` and `Say`."
