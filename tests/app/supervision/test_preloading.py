"""What the terminal says of the model that is loaded at the start."""

import httpx
import pytest

from app.services.inference_status import Preloaded
from app.supervision.preloading import tell_preloading


class Inference:
    """An inference process that gives these answers, the last of them for ever."""

    def __init__(self, *answers: Preloaded | None) -> None:
        self.answers = list(answers)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        answer = self.answers.pop(0)
        if answer is None:
            raise httpx.ConnectError("not up yet", request=request)
        return httpx.Response(200, content=answer.model_dump_json())


async def lines(*answers: Preloaded | None) -> list[str]:
    said: list[str] = []
    transport = httpx.MockTransport(Inference(*answers))
    await tell_preloading("http://inference", "secret", said.append, transport=transport, pause=0)
    return said


LOADING = Preloaded(state="loading", model="tiny")


async def test_loading_and_its_end_are_a_line_each() -> None:
    ready = Preloaded(state="ready", model="tiny")
    assert await lines(None, Preloaded(), LOADING, LOADING, ready) == [
        "Loading tiny for probes…",
        "tiny is ready for probes.",
    ]


async def test_a_model_that_cannot_be_loaded_is_named_with_the_reason() -> None:
    failed = Preloaded(state="failed", model="tiny", reason="There is no model at /x.")
    assert await lines(failed) == [
        "tiny cannot be loaded for probes: There is no model at /x. The rest of the site works."
    ]


@pytest.mark.parametrize("answers", [(Preloaded(state="nothing"),), (None, Preloaded(state="nothing"))])
async def test_a_site_without_saes_says_nothing(answers: tuple[Preloaded | None, ...]) -> None:
    assert await lines(*answers) == []
