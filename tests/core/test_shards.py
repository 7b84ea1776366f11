"""Shards are made once, by whoever takes them; those of a process that dies, by the others."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from sae_core.shards import help_make, make_shards, take_any

SIZES = [3, 1, 4, 1, 5]


class Numbers:
    """A work whose shards are numbers in a set."""

    def __init__(self, made: set[int] | None = None) -> None:
        self.sizes = SIZES
        self.there = set() if made is None else made
        self.times: Counter[int] = Counter()
        self.lock = threading.Lock()
        self.held: set[int] = set()

    def made(self) -> set[int]:
        return set(self.there)

    def is_made(self, shard: int, /) -> bool:
        return shard in self.there

    def make(self, shard: int, progress: Callable[[int], None], /) -> None:
        self.times[shard] += 1
        for done in range(1, SIZES[shard] + 1):
            progress(done)
        self.there.add(shard)

    @contextmanager
    def take(self, shard: int) -> Iterator[bool]:
        with self.lock:
            free = shard not in self.held
            self.held |= {shard}
        try:
            yield free
        finally:
            if free:
                self.held -= {shard}


def test_one_process_makes_what_is_missing_and_counts_to_the_end() -> None:
    work, reports = Numbers({1, 2}), list[tuple[int, int]]()
    make_shards(work, progress=lambda done, total, _=None, /: reports.append((done, total)))
    assert work.times == {0: 1, 3: 1, 4: 1}
    assert [done for done, _ in reports] == sorted(done for done, _ in reports)
    assert reports[0] == (5, 14)
    assert reports[-1] == (14, 14)


def test_several_make_each_shard_once() -> None:
    work = Numbers()
    with ThreadPoolExecutor(4) as pool:
        for ended in [pool.submit(make_shards, work, take=work.take) for _ in range(4)]:
            ended.result(timeout=30)
    assert work.times == dict.fromkeys(range(5), 1)


def test_who_helps_leaves_when_others_have_what_is_left() -> None:
    work = Numbers()
    with work.take(2):
        assert not help_make(work, take=work.take)
        assert work.there == {0, 1, 3, 4}
    assert help_make(work, take=work.take)


def test_the_shard_of_one_that_dies_is_made_by_the_one_that_waits() -> None:
    work, has_it, dies = Numbers(), threading.Event(), threading.Event()

    def hold() -> None:
        with work.take(2):
            has_it.set()
            dies.wait(30)

    def progress(done: int, total: int, _: object = None, /) -> None:
        if done == total - SIZES[2]:  # all but the one that is held
            dies.set()

    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(hold)
        has_it.wait(30)
        make_shards(work, take=work.take, progress=progress)
        held.result(timeout=30)
    assert work.times == dict.fromkeys(range(5), 1)


def test_work_that_is_stopped_lets_its_shard_go() -> None:
    work = Numbers()

    def stop(done: int, total: int, _: object = None, /) -> None:
        if done >= 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_shards(work, take=work.take, progress=stop)
    assert (work.there, work.held) == ({0, 1}, set())
    make_shards(work, take=take_any)
    assert work.there == set(range(5))
