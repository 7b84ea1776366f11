"""Examples from the inference process, which must come from the index that the page shows."""

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import create_sessionmaker, transaction
from app.errors import Conflict
from app.queries.features import get_feature
from app.services.feature_texts import draw_examples, stored_sequence
from app.services.inference import InferenceClient
from app.services.inference_messages import ExamplesAnswer
from tests.app.inference.dictionaries import Dictionary, make_dictionary, publish


def _client(dictionary: Dictionary, reply: Callable[[httpx.Request], httpx.Response]) -> InferenceClient:
    settings = dictionary.settings.model_copy(update={"inference_url": "http://inference"})
    return InferenceClient(settings, transport=httpx.MockTransport(reply))


async def test_no_transaction_is_open_while_examples_are_sampled(engine: AsyncEngine, tmp_path: Path) -> None:
    dictionary = make_dictionary(tmp_path)
    sae = await publish(engine, dictionary)
    assert sae.index is not None
    answer = ExamplesAnswer(index=sae.index.id, found=0, examples=[])
    open_transactions: list[bool] = []
    async with transaction(create_sessionmaker(engine)) as session:

        def reply(_request: httpx.Request) -> httpx.Response:
            open_transactions.append(session.in_transaction())
            return httpx.Response(200, text=answer.model_dump_json())

        feature = await get_feature(session, sae, 0)
        assert feature is not None
        inference = _client(dictionary, reply)
        assert (await draw_examples(session, inference, sae, feature, low=0, high=1)).examples == ()
    assert open_transactions == [False]


async def test_examples_of_another_index_are_refused(engine: AsyncEngine, tmp_path: Path) -> None:
    dictionary = make_dictionary(tmp_path)
    sae = await publish(engine, dictionary)
    assert sae.index is not None
    replaced = ExamplesAnswer(index=sae.index.id + 1, found=0, examples=[])
    inference = _client(dictionary, lambda _request: httpx.Response(200, text=replaced.model_dump_json()))
    async with transaction(create_sessionmaker(engine)) as session:
        feature = await get_feature(session, sae, 0)
        assert feature is not None
        with pytest.raises(Conflict, match="replaced while its examples were drawn"):
            await draw_examples(session, inference, sae, feature, low=0, high=1)
        with pytest.raises(Conflict, match="replaced while its examples were drawn"):
            await stored_sequence(session, inference, sae, feature, 0)
