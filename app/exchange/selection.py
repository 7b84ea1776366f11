"""Some features of an SAE, by number."""

import re
from dataclasses import dataclass

from app.errors import Unprocessable

_RANGE = re.compile(r" *(?P<first>[0-9]{1,9}) *(- *(?P<last>[0-9]{1,9}) *)?")


@dataclass(frozen=True, slots=True)
class Selection:
    """Ranges of feature numbers, ends included, in order."""

    ranges: tuple[tuple[int, int], ...]

    @classmethod
    def parse(cls, text: str) -> "Selection":
        """Parse a selection such as `0-99,250`.

        Raises:
            Unprocessable: it is no list of numbers and ranges.
        """
        ranges = []
        for part in text.split(","):
            found = _RANGE.fullmatch(part)
            if found is None:
                raise Unprocessable(
                    f"“{part.strip()[:40]}” is neither the number of a feature nor a range: write 0-99,250."
                )
            ranges.append((int(found["first"]), int(found["last"] or found["first"])))
        backwards = next((each for each in ranges if each[0] > each[1]), None)
        if backwards is not None:
            raise Unprocessable(f"The range {backwards[0]}-{backwards[1]} runs backwards.")
        return cls(tuple(sorted(ranges)))

    def __contains__(self, number: int) -> bool:
        return any(first <= number <= last for first, last in self.ranges)

    def __str__(self) -> str:
        return ",".join(f"{first}-{last}" if last > first else str(first) for first, last in self.ranges)
