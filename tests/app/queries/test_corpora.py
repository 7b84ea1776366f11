import re
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import event, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app.errors import Conflict
from app.queries import models
from app.queries.corpora import (
    CorpusInfo,
    CorpusRow,
    DocumentRow,
    SequenceSetRow,
    get_sequences,
    register_corpus,
    register_sequences,
    run_lengths,
)
from app.queries.models import (
    UNKNOWN,
    ModelInfo,
    ModelRow,
    get_tokens,
    register_model,
    register_without_weights,
)
from app.tables import Document, Sequence


async def model(session: AsyncSession, *, keep_name: bool = False, **changes: Any) -> ModelInfo:
    row = ModelRow(
        name="tiny",
        source="tests",
        n_layers=2,
        d_model=16,
        vocab_size=4,
        weights_sha256="0",
        tokenizer_sha256="1",
        bos_token_id=None,
    )
    tokens = [b"<s>", b"\xf0\x9f", b"\0", b" a"]
    return await register_model(
        session, replace(row, **changes), token_bytes=tokens, special_token_ids=[0], keep_name=keep_name
    )


async def corpus(session: AsyncSession, *, keep_name: bool = False, **changes: Any) -> CorpusInfo:
    row = CorpusRow(
        slug="wiki",
        title="Wiki",
        source="somewhere",
        licence="CC BY-SA 4.0",
        attribution="its authors",
        sha256="2",
        documents=2,
    )
    return await register_corpus(session, replace(row, **changes), keep_name=keep_name)


async def test_a_model_is_known_by_its_hashes(session: AsyncSession) -> None:
    first = await model(session)
    assert (first.name, first.bos_token_id) == ("tiny", None)
    assert await model(session, name="of-another-folder", source="elsewhere") == first


async def test_models_of_one_name_are_told_apart(session: AsyncSession) -> None:
    first = await model(session)
    others = [await model(session, weights_sha256="9"), await model(session, tokenizer_sha256="9")]
    assert len({first.id, *(other.id for other in others)}) == 3
    assert len({other.name for other in others}) == 2
    for other in others:
        assert re.fullmatch("tiny-[0-9a-f]{6}", other.name)
        tokens = await get_tokens(session, other.id, [3])
        assert tokens[3].bytes == b" a"
    assert await model(session, weights_sha256="9") == others[0]


async def test_a_name_that_was_chosen_is_kept_or_refused(session: AsyncSession) -> None:
    first = await model(session)
    with pytest.raises(Conflict, match="`model_name`"):
        await model(session, weights_sha256="9", keep_name=True)
    renamed = await model(session, name="mine", keep_name=True)
    assert renamed == replace(first, name="mine")
    assert (await model(session, weights_sha256="9")).name == "tiny"
    with pytest.raises(Conflict, match="`model_name`"):
        await model(session, name="tiny", keep_name=True)


async def test_tokens_are_stored_as_bytes(session: AsyncSession) -> None:
    registered = await model(session)
    tokens = await get_tokens(session, registered.id, [0, 1, 2, 99])
    assert [tokens[number].bytes for number in (0, 1, 2)] == [b"<s>", b"\xf0\x9f", b"\0"]
    assert [tokens[number].special for number in (0, 1)] == [True, False]
    assert tokens[99].bytes.decode() == "\ufffd"


async def test_a_vocabulary_is_read_once(session: AsyncSession, engine: AsyncEngine) -> None:
    registered = await model(session)
    statements: list[str] = []
    event.listen(
        engine.sync_engine, "before_cursor_execute", lambda _c, _cur, statement, *_: statements.append(statement)
    )
    for numbers in ([3], [0, 1], [2, 3]):
        tokens = await get_tokens(session, registered.id, numbers)
        assert set(numbers) <= tokens.keys()
    assert [tokens[number].bytes for number in range(4)] == [b"<s>", b"\xf0\x9f", b"\0", b" a"]
    assert [tokens[number].special for number in range(4)] == [True, False, False, False]
    assert len(statements) == 1


async def test_vocabularies_of_many_models_are_kept_up_to_a_size(
    session: AsyncSession, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "_MOST_TOKENS", 12)
    registered = [(await model(session, weights_sha256=str(number))).id for number in range(4)]
    statements: list[str] = []
    event.listen(engine.sync_engine, "before_cursor_execute", lambda *about: statements.append(about[2]))
    for number in [0, 1, 2, 0, 1, 2, 0, 3, 0, 2, 3]:  # the fourth takes the place of 1, which was used least recently
        await get_tokens(session, registered[number], [0, 1, 2, 3])
    assert len(statements) == 4
    await get_tokens(session, registered[1], [3])
    assert len(statements) == 5


async def test_of_a_large_vocabulary_only_what_is_asked_for_is_read(session: AsyncSession) -> None:
    registered = await model(session, weights_sha256="large", vocab_size=100_000)
    tokens = await get_tokens(session, registered.id, [0, 3, 99])
    assert {number: token.bytes for number, token in tokens.items()} == {0: b"<s>", 3: b" a", 99: UNKNOWN}
    assert (await get_tokens(session, registered.id, [3])).size == 2


async def test_a_token_that_was_unknown_is_found_once_it_is_there(session: AsyncSession) -> None:
    async def register(*tokens: bytes) -> int:
        registered, _ = await register_without_weights(
            session, name="export", source="x", n_layers=0, d_model=0, tokens=tokens
        )
        return registered.id

    number = await register(b"a")
    assert (await get_tokens(session, number, [0, 1]))[1].bytes == UNKNOWN
    await register(b"a", b"b")
    assert (await get_tokens(session, number, [0, 1]))[1].bytes == b"b"


async def test_a_corpus_is_registered_once(session: AsyncSession) -> None:
    first = await corpus(session, title="W\0iki", licence="")
    assert (first.title, first.version, first.licence) == ("W\ufffdiki", 1, "")
    again = await corpus(session, slug="copy", title="Copy")
    assert again == replace(first, licence="CC BY-SA 4.0"), "what was not stated is added"


async def test_other_text_of_one_name_is_another_version(session: AsyncSession) -> None:
    first, edited, third = [await corpus(session, sha256=digit) for digit in "234"]
    assert [(found.slug, found.version) for found in (first, edited, third)] == [("wiki", 1), ("wiki", 2), ("wiki", 3)]
    assert [found.title for found in (first, edited, third)] == ["Wiki", "Wiki (version 2)", "Wiki (version 3)"]
    assert await corpus(session, sha256="3") == edited


async def test_a_corpus_can_be_renamed(session: AsyncSession) -> None:
    await corpus(session)
    edited = await corpus(session, sha256="9")
    renamed = await corpus(session, sha256="9", slug="mine", title="Mine", keep_name=True)
    assert renamed == replace(edited, slug="mine", title="Mine", version=1)
    assert await corpus(session, sha256="9", slug="mine", title="Mine", keep_name=True) == renamed
    assert await corpus(session, sha256="9") == renamed


async def test_sequences_are_registered_once_with_their_documents(session: AsyncSession) -> None:
    corpus_id, model_id = (await corpus(session)).id, (await model(session)).id
    row = SequenceSetRow(corpus_id=corpus_id, model_id=model_id, length=4, tokens=5, sha256="3")
    values: dict[str, Any] = {
        "documents": [
            DocumentRow("First", "Music", {"views": 3, "lead": "a\0b", "score": float("nan")}),
            DocumentRow("Second\0"),
        ],
        "sequences": [([0, 3, 3, 1], [-1, 0, 0, 1]), ([0, 3, 2], [-1, 1, 1])],
    }
    first = await register_sequences(session, row, **values)
    assert (first.sequences, first.tokens, first.length, first.corpus.slug) == (2, 5, 4, "wiki")
    assert await register_sequences(session, row, **values) == first
    assert await get_sequences(session, first.id) == first

    rows = (await session.scalars(select(Sequence).order_by(Sequence.number))).all()
    assert [(row.token_ids, row.document_starts, row.document_numbers) for row in rows] == [
        ([0, 3, 3, 1], [0, 1, 3], [-1, 0, 1]),
        ([0, 3, 2], [0, 1], [-1, 1]),
    ]
    documents = (await session.scalars(select(Document).order_by(Document.number))).all()
    assert [(row.title, row.topic, row.info) for row in documents] == [
        ("First", "Music", {"views": 3, "lead": "a\ufffdb", "score": None}),
        ("Second\ufffd", None, {}),
    ]


def test_run_lengths_of_document_numbers() -> None:
    assert run_lengths([-1, 4, 4, 7]) == ([0, 1, 3], [-1, 4, 7])
    assert run_lengths([]) == ([], [])
