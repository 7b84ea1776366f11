"""How long a run still takes."""

from dataclasses import replace

import pytest

from app.queries.runs import Stage
from app.runs.time_left import forecast, roughly, seconds_left

READ = Stage("activations", "Run the model", total=100_000, unit="tokens", expected=100.0)
TRAIN = Stage("train", "Train the SAE", unit="samples", expected=50.0)
PUBLISH = Stage("publish", "Publish the index", unit="features", expected=10.0)
MAP = Stage("map", "Draw the map", expected=20.0)
RUN = (READ, TRAIN, PUBLISH, MAP)


def test_a_run_that_has_just_begun_takes_what_was_expected() -> None:
    found = forecast((replace(READ, state="running"), TRAIN, PUBLISH, MAP))
    assert found is not None
    assert (found.tokens_per_second, found.features, found.seconds) == (1000.0, 160.0, 180.0)
    assert found.text == (
        "This machine runs the model at 1,000 tokens/s. "
        "The features are here in about 2 min 30 s, all is done in 3 min."
    )


def test_a_stage_that_runs_counts_by_its_own_speed_and_those_that_wait_by_its_pace() -> None:
    half = replace(READ, state="running", done=50_000, seconds=100.0)  # twice as slow as expected
    found = forecast((half, TRAIN, PUBLISH, MAP))
    assert found is not None
    assert (found.tokens_per_second, found.seconds) == (500.0, 100 + 2 * 80)


def test_the_less_of_a_stage_is_done_the_more_its_expectation_counts() -> None:
    assert seconds_left(replace(READ, state="running", done=1000, seconds=3.0)) == pytest.approx(0.05 * 300 + 95 - 3)
    assert seconds_left(replace(READ, state="running", done=10_000, seconds=3.0)) == pytest.approx(0.15 * 30 + 85 - 3)
    assert seconds_left(replace(READ, state="running", done=40_000, seconds=20.0)) == pytest.approx(30)
    assert seconds_left(replace(READ, state="running", done=1000, seconds=3.0, expected=None)) == pytest.approx(297)


def test_a_stage_without_a_count_ends_when_it_was_expected_to() -> None:
    assert seconds_left(replace(MAP, state="running", seconds=5.0)) == 15.0
    assert seconds_left(replace(MAP, state="running", seconds=25.0)) == 0.0


def test_a_stage_that_found_its_work_done_says_nothing_of_the_others() -> None:
    kept = replace(READ, state="done", done=100_000, seconds=0.1)
    found = forecast((kept, replace(TRAIN, state="running"), PUBLISH, MAP))
    assert found is not None
    assert found.seconds == 80.0


def test_once_features_are_published_only_the_end_is_foreseen() -> None:
    done = [replace(stage, state="done", done=1, seconds=stage.expected or 0.0) for stage in RUN[:3]]
    found = forecast((*done, replace(MAP, state="running", seconds=8.0)))
    assert found is not None
    assert found.features is None
    assert found.text.endswith("About 10 s left.")


@pytest.mark.parametrize(
    "stages",
    [
        (replace(READ, expected=None), TRAIN),
        (READ, replace(TRAIN, expected=None)),
        (replace(READ, state="running"), replace(TRAIN, state="failed", expected=None)),
        tuple(replace(stage, state="done") for stage in RUN),
        (TRAIN,),
        (),
    ],
)
def test_nothing_is_said_of_what_is_not_known(stages: tuple[Stage, ...]) -> None:
    assert forecast(stages) is None


def test_times_are_as_precise_as_they_can_be_foreseen() -> None:
    times = (0, 12, 57, 58, 89, 130, 200, 569, 571, 5000, 12_600)
    assert [roughly(seconds) for seconds in times] == [
        "5 s", "10 s", "55 s", "1 min", "1 min 30 s", "2 min", "3 min 30 s", "9 min 30 s", "10 min", "83 min", "3.5 h",
    ]  # fmt: skip
