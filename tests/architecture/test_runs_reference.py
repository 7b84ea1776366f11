"""docs/runs.md follows the declarations of runs."""

import importlib.util
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]


def test_the_page_of_runs_is_up_to_date() -> None:
    location = importlib.util.spec_from_file_location("runs_page", CHECKOUT / "docs" / "runs.py")
    assert location is not None
    assert location.loader is not None
    page = importlib.util.module_from_spec(location)
    location.loader.exec_module(page)
    assert page.PAGE.read_text(encoding="utf-8") == page.text(), "write it again: python docs/runs.py"
