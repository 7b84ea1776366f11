"""Numbers, shares and times as a person reads them. `FILTERS` are template filters of the same names."""

import math
import re
from datetime import UTC, datetime

from markupsafe import Markup

from app.paths import without_folder

NARROW_SPACE = "\u202f"
NONE = "–"


def count(value: int) -> str:
    """196608 -> '196,608'."""
    return f"{value:,}"


def significant(value: float | None, digits: int = 3) -> str:
    """Return `value` with at least `digits` significant digits and no exponent: 12.3, 0.0420, 1,234."""
    if value is None or not math.isfinite(value):
        return NONE
    if value == 0:
        return "0"
    if 0.0001 <= value < min(1000, 0.9 * 10 ** (digits - 1)):  # most numbers of a page
        return f"{value:#.{digits}g}"
    # The exponent of the rounded value: 9.996 is 10.0 to three digits, not 10.00.
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])
    text = f"{value:.0e}".replace("e-0", "e-") if exponent < -6 else f"{value:,.{max(0, digits - 1 - exponent)}f}"
    return text.replace("-", "\u2212")


def signed(value: float) -> str:
    """+1.24 or −0.31, for logits."""
    return ("+" if value > 0 else "") + significant(value)


def plain(value: float) -> str:
    """Return a number as it was set: 32.0 -> '32', 0.5 -> '0.5'."""
    return f"{value:g}"


def percent(share: float) -> str:
    """Return a share of 1 as per cent: 0.0034 -> '0.34 %'. Two significant digits below 10 %, one decimal above."""
    value = 100 * share
    if not math.isfinite(value):
        return NONE
    if value == 0:
        text = "0"
    elif value >= 99.95:
        text = f"{value:.0f}" if value >= 99.995 else f"{value:.2f}"
    elif value >= 10:
        text = f"{value:.1f}"
    else:
        text = significant(value, 2)
    return f"{text}{NARROW_SPACE}%"


def round_percent(share: float) -> str:
    """Return a round share in the shortest form: 0.0001 -> '0.01 %'."""
    return f"{100 * share:.10f}".rstrip("0").rstrip(".") + f"{NARROW_SPACE}%"


def duration(seconds: float) -> str:
    """65 -> '1 min 5 s'; below ten seconds with one decimal."""
    if seconds < 9.95:
        return f"{seconds:.1f}{NARROW_SPACE}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{NARROW_SPACE}s"
    if whole < 3600:
        return f"{whole // 60}{NARROW_SPACE}min {whole % 60}{NARROW_SPACE}s"
    return f"{whole // 3600}{NARROW_SPACE}h {whole % 3600 // 60}{NARROW_SPACE}min"


def moment(value: datetime) -> str:
    """Return a time in UTC, to the minute: '22 Nov 2026, 07:42 UTC'."""
    utc = value.astimezone(UTC)
    return f"{utc.day} {utc:%b %Y, %H:%M} UTC"


def timestamp(value: datetime, classes: str = "") -> Markup:
    """Return `moment` as a `<time>` element that a machine can read too, with CSS `classes`."""
    named = Markup(' class="{}"').format(classes) if classes else ""
    return Markup('<time{} datetime="{}">{}</time>').format(named, value.isoformat(), moment(value))


def short_hash(sha256: str) -> str:
    """Return the first twelve hex digits, enough to compare by eye."""
    return sha256[:12]


def article(word: str) -> str:
    """Return the article of a word: an admin, a labeller."""
    return "an" if word[:1].lower() in "aeio" else "a"


def plural(number: int, one: str, many: str | None = None) -> str:
    """'1 feature', '4,096 features'."""
    return f"{count(number)} {one if number == 1 else many or one + 's'}"


def percentile(value: float) -> str:
    """99.97 -> '99.9', rounded down, so that 100 means stronger than every activation of the index."""
    return "100" if value >= 100 else f"{math.floor(10 * value) / 10:.1f}"


def amount(value: float, unit: str) -> str:
    """Return a count of a run's stage without its unit; bytes as '92.9 MB' or '1.24 GB'."""
    if unit != "bytes":
        return f"{value:,.0f}"
    divisor, name = (1e9, "GB") if value >= 1e9 else (1e6, "MB")
    return f"{significant(value / divisor)}{NARROW_SPACE}{name}"


def rate(value: float, unit: str) -> str:
    """'3,100 tokens/s', '4.2 MB/s'."""
    if unit == "bytes":
        return f"{amount(value, unit)}/s"
    return f"{significant(value) if value < 100 else f'{value:,.0f}'} {unit}/s"


def message(text: object) -> str:
    """Return a message with the parameters it names in quotation marks: `hook_out` is “hook out”."""
    return _NAMED.sub(lambda named: f"“{named[1].replace('_', ' ')}”", str(text))


_NAMED = re.compile(r"`([a-z][a-z0-9_]*)`")

FILTERS = {
    f.__name__: f
    for f in (
        amount,
        count,
        duration,
        message,
        article,
        percent,
        percentile,
        plain,
        plural,
        rate,
        round_percent,
        short_hash,
        signed,
        significant,
        timestamp,
        without_folder,
    )
}
