import threading

import pytest
import torch

from sae_core.threads import in_order


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)


def test_results_come_in_the_order_of_the_items_though_a_later_one_is_ready_first() -> None:
    second = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            assert second.wait(60)
        if item == 1:
            second.set()
        return 10 * item

    assert list(in_order(work, range(9))) == [10 * item for item in range(9)]


def test_no_more_results_are_made_than_wait_for_who_takes_them() -> None:
    asked: list[int] = []

    def items():
        for item in range(100):
            asked.append(item)
            yield item

    results = in_order(str, items())
    assert [next(results), next(results)] == ["0", "1"]
    assert len(asked) == 5
    results.close()


def test_an_error_of_the_work_is_raised_where_its_result_would_be_and_ends_it() -> None:
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        return 6 // (3 - item)

    results = in_order(work, range(100))
    assert [next(results) for _ in range(3)] == [2, 3, 6]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert len(begun) < 10
    assert list(in_order(str, [])) == []
