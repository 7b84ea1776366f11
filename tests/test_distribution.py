"""The tests of one file share one process, or what is slow to make would be made in each."""

import pytest


def test_a_file_stays_in_one_process(request: pytest.FixtureRequest) -> None:
    """pytest 9.2 with pytest-xdist 3.8 spreads a file's tests without a word (pytest-xdist issue 1386)."""
    if not hasattr(request.config, "workerinput"):
        pytest.skip("without pytest-xdist, all tests run in one process")
    assert request.node.nodeid.endswith("@test_distribution.py")
