"""`seesae bench web` with readers who come back to the same pages: what is left when all that can be is kept.

    python benchmarks/returning_readers.py [--page ADDRESS] [--json FILE]

They open fifty features and five lists of one SAE among a million features, so after some seconds no page is a first
opening. It is a bound on what rendering pages ahead could bring. With `--page /textsets` they open only this one, which
shows nothing on such a site: that is what answering costs, whatever the page.
"""

import argparse
import json
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import patch

from pages import AGAIN, LISTS
from report import machine

from app.bench import browsing, web
from app.bench.browsing import Person
from app.bench.scratch_database import Plan, slug
from app.settings import load_settings

WARM_SECONDS = 20.0
FEATURES = 0.6
"""Share of features among the pages, as for other readers."""


async def browse_few(person: Person) -> None:
    """Open page after page of the few until cancelled."""
    base = f"/saes/{slug(0)}/features"
    await person._look()
    while True:
        if person.random.random() < FEATURES:
            await person._open("feature", f"{base}/{person.random.integers(AGAIN)}")
        else:
            await person._open("list", f"{base}?{LISTS[person.random.integers(len(LISTS))]}")


def browse_one(address: str) -> Callable[[Person], Awaitable[None]]:
    """Return what opens one page over and over until cancelled."""

    async def browse(person: Person) -> None:
        await person._look()
        while True:
            await person._open("feature", address)

    return browse


def main() -> None:
    """Measure, print, and write the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--page", metavar="ADDRESS", help="open this page alone; its times are called a feature's")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    browse = browse_one(options.page) if options.page else browse_few
    plan = Plan(saes=1, features=8192, processes=2) if options.page else Plan(processes=2)
    with patch.object(Person, "browse", browse), patch.object(browsing, "WARM_SECONDS", WARM_SECONDS):
        figures = web.run(load_settings(), plan, lambda line: print(line, file=sys.stderr))
    text = json.dumps({"date": datetime.now(UTC).date().isoformat(), "machine": machine()} | figures, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
