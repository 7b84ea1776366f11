"""The probe, whole: site, inference service, model, SAE and index are real; only the network between them is not."""

import asyncio
import csv
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import create_engine, create_sessionmaker, transaction
from app.queries.saes import SaeDetail, SaeRow, register_sae
from app.settings import Settings
from app.web.api.probe import DiffOut, ProbeOut, PromptOut
from sae_core.checkpoints import save_sae
from sae_core.models import HookPoint
from tests.app.inference.dictionaries import (
    CORPUS,
    SLUG,
    Dictionary,
    activations,
    make_dictionary,
    publish,
    random_sae,
)
from tests.core.test_chat import CHATML
from tests.factories import add_label
from tests.tiny import BOS, EOS, sentencepiece_tokenizer, tiny_tokenizer
from tests.web.api.problems import problem
from tests.web.html import parse
from tests.web.site import SECRET, app_of, production_logging, site

# One database, index and model for all tests of this module: they take long to make, and probes change nothing.
module_fixture = pytest.fixture(scope="module")

TEXT = "It was the best of times, it was the worst of times — and <b>nothing</b> more.\n"


@module_fixture
def engine(module_engine: AsyncEngine) -> AsyncEngine:
    return module_engine


@module_fixture
async def sae(dictionary: Dictionary, engine: AsyncEngine) -> SaeDetail:
    return await publish(engine, dictionary)


@pytest.fixture(scope="module")
def settings(dictionary: Dictionary, module_database_url: str) -> Settings:
    secret = SecretStr(SECRET)
    return dictionary.settings.model_copy(update={"database_url": module_database_url, "inference_secret": secret})


@module_fixture
async def client(settings: Settings, sae: SaeDetail) -> AsyncIterator[httpx.AsyncClient]:
    async with site(settings, inference=settings) as client:
        yield client


@pytest.fixture
def url(sae: SaeDetail) -> str:
    return f"/api/v1/saes/{sae.slug}/probe"


async def execute(engine: AsyncEngine, statement: str) -> None:
    async with engine.begin() as connection:
        await connection.exec_driver_sql(statement)


async def test_activations_are_those_of_model_and_sae(
    client: httpx.AsyncClient, url: str, dictionary: Dictionary
) -> None:
    answer = (await client.post(url, json={"text": TEXT, "top_k": 64})).json()

    expected = activations(dictionary, TEXT)
    assert [token["id"] for token in answer["tokens"]] == dictionary.model.tokenize(TEXT)
    assert (
        sorted(feature["index"] for feature in answer["features"]) == expected.sum(dim=0).nonzero().flatten().tolist()
    )
    assert answer["firing"] == len(answer["features"])
    for feature in answer["features"]:
        f = expected[:, feature["index"]]
        assert feature["activations"] == pytest.approx(f.tolist(), rel=1e-5)
        assert feature["max"] == max(feature["activations"])
        assert feature["max_position"] == f.argmax()
    for position, features in enumerate(answer["per_token"]):
        assert {feature["index"]: pytest.approx(feature["activation"], rel=1e-5) for feature in features} == {
            index: expected[position, index].item() for index in expected[position].nonzero().flatten().tolist()
        }


async def test_the_tokens_are_the_text(client: httpx.AsyncClient, url: str) -> None:
    tokens = (await client.post(url, json={"text": TEXT + "🧠"})).json()["tokens"]
    assert "".join(token["text"] for token in tokens if not token["special"]) == TEXT + "🧠"
    assert (tokens[0]["text"], tokens[0]["special"]) == (BOS, True)
    assert not any(token["special"] for token in tokens[1:])


async def test_special_tokens_have_no_features(client: httpx.AsyncClient, url: str) -> None:
    answer = (await client.post(url, json={"text": f"one{EOS}two", "top_k": 64})).json()
    specials = [place for place, token in enumerate(answer["tokens"]) if token["special"]]
    assert [answer["tokens"][place]["text"] for place in specials] == [BOS, EOS]
    for place in specials:
        assert answer["per_token"][place] == []
        assert all(feature["activations"][place] == 0 for feature in answer["features"])


async def test_percentiles_are_within_the_features_own_activations(
    client: httpx.AsyncClient, url: str, dictionary: Dictionary
) -> None:
    indexed = torch.cat([activations(dictionary, text) for text in CORPUS]).numpy()
    answer = (await client.post(url, json={"text": TEXT, "top_k": 64})).json()
    for feature in answer["features"]:
        own = indexed[:, feature["index"]]
        own = own[own > 0]
        inside = np.histogram(own, bins=50, range=(0, own.max()))[0].max() / len(own)  # where in a bin is not known
        assert feature["percentile"] == pytest.approx(100 * (own < feature["max"]).mean(), abs=100 * inside)
    assert len({feature["percentile"] for feature in answer["features"]}) > 10


async def test_top_k_cuts_both_lists(client: httpx.AsyncClient, url: str) -> None:
    whole = (await client.post(url, json={"text": TEXT, "top_k": 64})).json()
    cut = (await client.post(url, json={"text": TEXT, "top_k": 3})).json()
    assert cut["features"] == whole["features"][:3]
    assert cut["per_token"] == [features[:3] for features in whole["per_token"]]
    assert cut["firing"] == whole["firing"]


async def test_the_answer_is_written_as_its_model_writes_it(client: httpx.AsyncClient, url: str) -> None:
    body = (await client.post(url, json={"text": TEXT})).content
    assert ProbeOut.model_validate_json(body, extra="forbid").model_dump_json().encode() == body


async def test_features_have_their_labels(
    client: httpx.AsyncClient, url: str, sae: SaeDetail, engine: AsyncEngine
) -> None:
    index = (await client.post(url, json={"text": TEXT, "top_k": 1})).json()["features"][0]["index"]
    async with transaction(create_sessionmaker(engine)) as session:
        await add_label(session, sae, index, "what is <b>bold</b>")
    answer = (await client.post(url, json={"text": TEXT, "top_k": 64})).json()
    assert answer["features"][0]["label"] == "what is <b>bold</b>"
    assert {f["label"] for features in answer["per_token"] for f in features if f["index"] == index} == {
        "what is <b>bold</b>"
    }


async def test_without_an_index_the_activation_ranks(
    client: httpx.AsyncClient, url: str, sae: SaeDetail, engine: AsyncEngine
) -> None:
    assert sae.index is not None
    await execute(engine, "UPDATE sae SET current_index_id = NULL")
    features = (await client.post(url, json={"text": TEXT, "top_k": 64})).json()["features"]
    await execute(engine, f"UPDATE sae SET current_index_id = {sae.index.id}")
    assert {feature["percentile"] for feature in features} == {None}
    assert [f["max"] for f in features] == sorted((f["max"] for f in features), reverse=True)


@pytest.mark.parametrize(
    ("content", "status", "says"),
    [
        ({"text": ""}, 422, "empty"),
        ({"text": "times " * 150}, 413, "302 tokens; at most 100"),
        ({"text": "\ud83e"}, 422, "half of a surrogate pair"),
        ({"text": "x" * 2_000_000}, 413, "1,000,000 bytes"),
        ({"text": 7}, 422, "“text” in the body"),
        ({}, 422, "“text” in the body"),
        ({"text": "x", "top_k": 0}, 422, "“top_k” in the body"),
        ({"text": "x", "top_k": 10**9}, 422, "“top_k” in the body"),
        ({"text": "x", "mode": "fast"}, 422, "“mode” in the body"),
        ([], 422, "the body"),
        (None, 422, "the body"),
    ],
)
async def test_bad_input_is_explained(
    client: httpx.AsyncClient, url: str, content: object, status: int, says: str
) -> None:
    response = await client.post(url, content=json.dumps(content), headers={"Content-Type": "application/json"})
    assert says in problem(response, status)["detail"]


@pytest.mark.parametrize("body", [b"", b"{", b'{"text": "a', b"\xff\xfe", b"[" * 100_000, b'{"text": "\xc3"}'])
async def test_invalid_json_is_explained(client: httpx.AsyncClient, url: str, body: bytes) -> None:
    response = await client.post(url, content=body, headers={"Content-Type": "application/json"})
    problem(response, response.status_code)
    assert response.status_code in (400, 422)


async def test_a_body_is_not_read_past_its_limit(client: httpx.AsyncClient, url: str) -> None:
    sent = 0

    async def long() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(50):
            sent += 100_000
            yield b"x" * 100_000

    response = await client.post(url, content=long(), headers={"Content-Type": "application/json"})
    problem(response, 413)
    assert sent <= 1_200_000


@pytest.mark.parametrize(
    "text", ["\0", "<script>alert(1)</script>", " ", "مرحبا", "{{ 7*7 }}", "%s %(x)s", "'; DROP TABLE sae"]
)
async def test_any_characters_are_text(client: httpx.AsyncClient, url: str, text: str) -> None:
    response = await client.post(url, json={"text": text})
    assert response.headers["content-type"] == "application/json"
    assert "".join(token["text"] for token in response.json()["tokens"][1:]) == text


@pytest.mark.own_database
@pytest.mark.parametrize("text", ["Hello", " Hello", "x", "café 🧠</s>, <s>x"])
async def test_tokens_join_to_the_prompt_where_the_tokenizer_adds_a_space(
    tmp_path: Path, database_url: str, text: str
) -> None:
    made = make_dictionary(tmp_path, sentencepiece_tokenizer())
    away = made.settings.model_copy(update={"database_url": database_url, "inference_secret": SecretStr(SECRET)})
    database = create_engine(database_url)
    found = await publish(database, made)
    await database.dispose()
    async with site(away, inference=away) as client:
        tokens = (await client.post(f"/api/v1/saes/{found.slug}/probe", json={"text": text})).json()["tokens"]
        page = parse((await client.post(f"/saes/{found.slug}/probe", data={"text": text})).text)
        by_example = await client.post(f"/api/v1/saes/{found.slug}/features/by-example", json={"text": text})
    assert tokens[0]["text"] == "<s>"
    assert "".join(token["text"] for token in tokens[1:]) == text
    assert [token["text"] for token in by_example.json()["tokens"]] == [token["text"] for token in tokens]
    if text == "Hello":
        assert page.one("p", cls="strip").text.removeprefix("<s>") == "Hello"


async def test_an_unknown_sae_is_named(client: httpx.AsyncClient) -> None:
    found = problem(await client.post("/api/v1/saes/other/probe", json={"text": TEXT}), 404)
    assert "“other”" in found["detail"]


async def test_a_missing_model_is_explained_without_a_path_of_the_server(
    settings: Settings, sae: SaeDetail, url: str, engine: AsyncEngine, capfd: pytest.CaptureFixture[str]
) -> None:
    await execute(engine, "UPDATE language_model SET source = '/nowhere/at/all'")
    async with site(settings, inference=settings) as client:
        found = problem(await client.post(url, json={"text": TEXT}), 503)
    await execute(engine, f"UPDATE language_model SET source = '{sae.model.source}'")
    assert "its model tiny cannot be loaded. The log" in found["detail"]
    assert "/nowhere" not in found["detail"]
    assert "There is no model at /nowhere/at/all" in capfd.readouterr().err


async def test_other_pages_work_without_inference(
    settings: Settings, sae: SaeDetail, url: str, unused_tcp_port: int
) -> None:
    for inference_url in (None, f"http://127.0.0.1:{unused_tcp_port}"):
        async with site(settings.model_copy(update={"inference_url": inference_url})) as client:
            response = await client.post(url, json={"text": TEXT})
            assert "inference process is not answering" in problem(response, 503)["detail"]
            assert response.headers["retry-after"]
            assert (await client.get(f"/api/v1/saes/{sae.slug}/features")).status_code == 200


async def test_a_hanging_inference_process_times_out(
    settings: Settings, sae: SaeDetail, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.services.inference._ANSWER_SECONDS", 0.2)
    asked = asyncio.Event()

    async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(never_answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with site(settings.model_copy(update={"inference_url": f"http://127.0.0.1:{port}"})) as client:
            problem(await client.post(url, json={"text": TEXT}), 503)
    assert asked.is_set()


async def test_no_connection_is_held_while_a_model_loads(client: httpx.AsyncClient, url: str) -> None:
    app = app_of(client)
    held: list[int] = []
    transport = app.state.inference._client._transport

    class Watching(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            held.append(app.state.engine.pool.checkedout())
            return await transport.handle_async_request(request)

    app.state.inference._client._transport = Watching()
    assert (await client.post(url, json={"text": TEXT})).status_code == 200
    app.state.inference._client._transport = transport
    assert held == [0]


class LeakyError(Exception):
    """Quotes its input, as exceptions of libraries do."""


async def test_prompts_are_neither_logged_nor_stored(
    client: httpx.AsyncClient,
    url: str,
    engine: AsyncEngine,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    secret = "xyzzy plugh"
    with production_logging():  # again, to this test's standard error
        responses = [
            await client.post(url, json={"text": secret}),
            await client.post(url, json={"text": secret * 200}),
            await client.post(url, json={"text": secret + "\0"}),
            await client.post(url, content=json.dumps({"text": secret + "\ud83e"})),
            await client.post(url, json={"text": [secret]}),
            await client.post(url, content=b'{"text": "xyzzy plugh'),
        ]

        def fail(*_arguments: object) -> None:
            raise LeakyError(secret)

        with monkeypatch.context() as patched:
            patched.setattr("app.inference.engine._run", fail)
            responses.append(await client.post(url, json={"text": secret}))
        with monkeypatch.context() as patched:
            patched.setattr("app.services.probe._per_token", fail)
            responses.append(await client.post(url, json={"text": secret}))
    assert [response.status_code for response in responses] == [200, 413, 200, 422, 422, 422, 503, 500]
    for response in responses[3:]:
        assert "xyzzy" not in response.text

    output = "".join(capfd.readouterr())
    assert output.count('"event": "probe"') == 3
    assert output.count("LeakyError") == 2  # the fault is there,
    assert "test_probe.py" in output  # and where it was,
    assert "xyzzy" not in output  # and not the text

    async with engine.connect() as connection:
        tables = await connection.exec_driver_sql(
            "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        )
        for (table,) in tables.all():
            found = await connection.exec_driver_sql(
                f"SELECT count(*) FROM {table} AS t WHERE t::text LIKE '%%xyzzy%%'"
            )
            assert found.scalar() == 0, table


async def test_two_texts_are_compared_token_by_token(
    client: httpx.AsyncClient, url: str, dictionary: Dictionary
) -> None:
    texts = ["The nurse said he was late", "The nurse said she was late"]
    answer = (await client.post(url, json={"texts": texts, "diff": True, "top_k": 64})).json()
    DiffOut.model_validate(answer, extra="forbid")

    for text, side in zip(texts, ("a", "b"), strict=True):
        expected = activations(dictionary, text)
        assert [token["id"] for token in answer[side]] == dictionary.model.tokenize(text)
        for feature in answer["features"]:
            assert feature[f"activations_{side}"] == pytest.approx(expected[:, feature["index"]].tolist(), rel=1e-5)
    assert [i for i, _ in answer["alignment"] if i is not None] == list(range(len(answer["a"])))
    differences = [feature["difference"] for feature in answer["features"]]
    assert differences == sorted(differences, reverse=True)
    assert answer["differing"] == sum(difference > 0 for difference in differences)
    same = (await client.post(url, json={"texts": [TEXT, TEXT], "diff": True})).json()
    assert same["differing"] == 0


async def test_many_texts_are_probed_each_alone(client: httpx.AsyncClient, url: str) -> None:
    texts = [TEXT, "times " * 150, "another text"]
    results = (await client.post(url, json={"texts": texts, "top_k": 5})).json()["results"]
    alone = (await client.post(url, json={"text": TEXT, "top_k": 5})).json()
    assert [f["index"] for f in results[0]["features"]] == [f["index"] for f in alone["features"]]
    assert results[0]["firing"] == alone["firing"]
    assert "at most 100" in results[1]["error"]
    assert (results[1]["features"], results[2]["error"], results[2]["prompt"]) == ([], None, 2)


async def test_many_texts_stream_as_rows(client: httpx.AsyncClient, url: str) -> None:
    body = {"texts": ["one text", '=cmd|"x"', "x " * 300], "top_k": 3}
    whole = (await client.post(url, json=body)).json()["results"]
    lines = await client.post(url, json=body, headers={"Accept": "application/x-ndjson"})
    assert lines.headers["content-type"].startswith("application/x-ndjson")
    assert [json.loads(line) for line in lines.text.splitlines()] == whole
    table = await client.post(url, json=body, headers={"Accept": "text/csv"})
    rows = list(csv.DictReader(table.text.splitlines()))
    assert [(int(row["prompt"]), int(row["feature"])) for row in rows if row["feature"]] == [
        (one["prompt"], feature["index"]) for one in whole for feature in one["features"]
    ]
    assert "at most 100" in rows[-1]["error"]


async def test_features_rank_by_activation_and_by_rarity(
    client: httpx.AsyncClient, url: str, dictionary: Dictionary
) -> None:
    def rows(body: dict[str, object]) -> dict[str, object]:
        return {"text": TEXT, "top_k": 64} | body

    by_activation = (await client.post(url, json=rows({"rank_by": "activation"}))).json()["features"]
    assert [f["max"] for f in by_activation] == sorted((f["max"] for f in by_activation), reverse=True)
    fires = (torch.cat([activations(dictionary, text) for text in CORPUS]) > 0).sum(dim=0)
    by_rarity = (await client.post(url, json=rows({"rank_by": "rarity"}))).json()["features"]
    counts = [int(fires[f["index"]]) for f in by_rarity]
    assert counts == sorted(counts)
    assert len(by_rarity) == len(by_activation)


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"text": "x", "texts": ["y"]}, 422, "exactly one; this has text and texts"),
        ({"texts": []}, 422, "There are no texts"),
        ({"texts": ["x"] * 1001}, 413, "at most 1,000"),
        ({"texts": ["x", ""]}, 422, "Text 1 of “texts”: The text is empty"),
        ({"texts": ["x"], "diff": True}, 422, "exactly two"),
        ({"text": "x", "diff": True}, 422, "exactly two"),
        ({"texts": ["x"], "saes": ["y"]}, 422, "probed in one SAE"),
        ({"text": "x", "saes": ["nothing"]}, 404, "“nothing”"),
        ({"text": "x", "saes": [SLUG]}, 422, "named twice"),
        ({"text": "x", "rank_by": "luck"}, 422, "“rank_by” in the body"),
        ({"chat": []}, 422, "no turns"),
        ({"chat": [{"role": "user", "content": ""}]}, 422, "Every turn"),
        ({"chat": [{"role": "user"}]}, 422, "content"),
        ({"chat": [{"role": "user", "content": "x"}] * 101}, 422, "at most 100"),
        ({"chat": [{"role": "user", "content": "Hello"}]}, 422, "tiny has no chat template"),
    ],
)
async def test_combinations_that_do_not_fit_are_explained(
    client: httpx.AsyncClient, url: str, body: object, status: int, says: str
) -> None:
    assert says in problem(await client.post(url, json=body), status)["detail"]


@pytest.mark.own_database
async def test_a_conversation_and_several_saes_share_one_pass(tmp_path: Path, database_url: str) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHATML
    made = make_dictionary(tmp_path, tokenizer)
    away = made.settings.model_copy(update={"database_url": database_url, "inference_secret": SecretStr(SECRET)})
    database = create_engine(database_url)
    found = await publish(database, made)
    other = random_sae(made.model.d_model, d_sae=32, k=4, seed=1)
    save_sae(other, away.artifacts / "saes" / "other", {"model_name": "tiny", "hook_name": "blocks.1.hook_resid_post"})
    row = SaeRow(
        slug="other", model_id=found.model.id, hook="resid_post.1", architecture="topk", d_in=32, d_sae=32, k=4,
        artifact="saes/other", weights_sha256="1" * 64, config={}, metrics={}, created_by="tester",
    )  # fmt: skip
    async with transaction(create_sessionmaker(database)) as session:
        await register_sae(session, row)
    await database.dispose()
    chat = [{"role": "user", "content": "Hello <b>there</b>"}]
    url = f"/api/v1/saes/{found.slug}/probe"
    async with site(away, inference=away) as client:
        response = await client.post(url, json={"chat": chat, "saes": ["other"], "top_k": 64})
        plain = (await client.post(url, json={"text": f"{BOS}user\nHello <b>there</b>{EOS}\n{BOS}assistant\n"})).json()
    answer = response.json()
    PromptOut.model_validate(answer, extra="forbid")
    tokens = answer["tokens"]
    assert [token["id"] for token in tokens] == [token["id"] for token in plain["tokens"]]
    assert [token["text"] for token in tokens].count(BOS) == 2  # the format's own, none in front
    assert "".join(token["text"] for token in tokens if not token["added"]) == "Hello <b>there</b>"
    assert {token["role"] for token in tokens if not token["added"]} == {"user"}
    ids = torch.tensor([[token["id"] for token in tokens]])
    counted = torch.tensor([not token["special"] for token in tokens])
    for findings, sae, hook in zip(answer["saes"], (made.sae, other), ("resid_post.2", "resid_post.1"), strict=True):
        assert findings["hook"] == hook
        expected = sae.encode(made.model.activations(ids, HookPoint.parse(hook))[0]).detach() * counted[:, None]
        assert findings["firing"] == int((expected.sum(dim=0) > 0).sum())
        for feature in findings["features"]:
            assert feature["activations"] == pytest.approx(expected[:, feature["index"]].tolist(), rel=1e-5)
