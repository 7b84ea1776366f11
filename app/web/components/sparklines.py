"""Small histograms for lists, as the path of an inline SVG."""

from collections.abc import Sequence

WIDTH = 80
HEIGHT = 20


def path(counts: Sequence[int]) -> str:
    """Return the `d` of one filled path that draws one bar per bin in an 80 × 20 box.

    Heights follow the square root of the count, so that a tail a hundred times rarer than the peak still shows
    at a tenth of its height; a bin that is not empty is at least one pixel high.
    """
    peak = max(counts, default=0)
    if peak == 0:
        return f"M0 {HEIGHT - 1}h{WIDTH}v1h-{WIDTH}z"
    step = f"h{WIDTH / len(counts):g}"
    parts = [f"M0 {HEIGHT}"]
    level = 0.0
    for value in counts:
        height = max(1.0, HEIGHT * (value / peak) ** 0.5) if value else 0.0
        if height != level:
            parts.append(f"v{level - height:.1f}")
            level = height
        parts.append(step)
    parts.append(f"V{HEIGHT}z")
    return "".join(parts)
