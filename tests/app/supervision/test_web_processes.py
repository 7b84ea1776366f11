import os

import pytest

from app.settings import Settings
from app.supervision.web_processes import MOST_BY_DEFAULT, number_of_web_processes


def test_one_web_process_per_core_up_to_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, expected in ((1, 1), (2, 2), (64, MOST_BY_DEFAULT)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)), raising=False)
        assert number_of_web_processes(Settings()) == expected


def test_the_setting_decides() -> None:
    assert number_of_web_processes(Settings(web_processes=7)) == 7
