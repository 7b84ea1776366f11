"""A reading is what probing each text by itself gives."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sae_core.errors import ArtifactError, ModelError
from sae_core.models import HookPoint, LanguageModel
from sae_core.readings import Part, load_reading, read_texts
from sae_core.readings import read as reader
from sae_core.saes import SAE
from tests.core.interventions.conftest import random_sae
from tests.core.test_chat import CHATML, chat_model
from tests.tiny import BOS, documents

HOOK = HookPoint("resid_post", 1)


@pytest.fixture(scope="module")
def sae() -> SAE:
    return random_sae("topk").for_inference()


def test_a_reading_holds_the_activations_of_each_text_alone(model: LanguageModel, sae: SAE) -> None:
    texts = [document["text"][: 40 * number] for number, document in enumerate(documents()[:6], 0)]
    texts.append(f"a special {BOS} token does not count")
    reading = read_texts(model, sae, texts, hook=HOOK, max_tokens=40)
    for number, text in enumerate(texts):
        ids = model.tokenize(text)[:41]
        x = model.activations(torch.tensor([ids]), HOOK)[0]
        counted = [place for place, token in enumerate(ids) if token not in model.special_token_ids]
        own = slice(reading.offsets[number], reading.offsets[number + 1])
        assert reading.token_ids[own].tolist() == [ids[place] for place in counted]
        np.testing.assert_allclose(reading.features[own].toarray(), sae.encode(x[counted]).numpy(), atol=1e-4)
        if counted:
            np.testing.assert_allclose(reading.residual["mean"][number], x[counted].mean(dim=0).numpy(), atol=1e-4)
            np.testing.assert_allclose(reading.residual["max"][number], x[counted].amax(dim=0).numpy(), atol=1e-4)
            np.testing.assert_allclose(reading.residual["last"][number], x[counted[-1]].numpy(), atol=1e-4)
        assert reading.truncated[number] == (len(model.tokenize(text)) > 41)
    assert reading.lengths[0] == 0 and not reading.residual["mean"][0].any()
    assert reading.truncated.any() and (reading.parts == Part.TEXT).all()


def test_a_stopped_reading_continues_and_is_the_same(
    model: LanguageModel, sae: SAE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "SHARD_TOKENS", 100)
    monkeypatch.setattr(reader, "BATCH_TOKENS", 60)
    texts = [document["text"][:200] for document in documents()[:8]]
    whole = read_texts(model, sae, texts, hook=HOOK)
    reports: list[tuple[int, int]] = []

    def stop(done: int, total: int, _metrics: object = None, /) -> None:
        reports.append((done, total))
        if done > total / 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        read_texts(model, sae, texts, hook=HOOK, folder=tmp_path, progress=stop)
    kept = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert kept and reports == sorted(reports)
    read_texts(model, sae, texts, hook=HOOK, folder=tmp_path)
    assert all((tmp_path / name).stat().st_mtime_ns == time for name, time in kept.items())
    loaded = load_reading(tmp_path)
    np.testing.assert_array_equal(loaded.offsets, whole.offsets)
    np.testing.assert_allclose(loaded.features.toarray(), whole.features.toarray(), atol=1e-4)
    np.testing.assert_allclose(loaded.residual["max"], whole.residual["max"], atol=1e-4)
    (tmp_path / "shard-00000.npz").write_bytes(b"PK")
    with pytest.raises(ArtifactError, match="damaged"):
        load_reading(tmp_path)
    with pytest.raises(ArtifactError, match="no reading"):
        load_reading(tmp_path / "nowhere")


def test_parts_of_a_chat_are_its_roles_and_its_template(model: LanguageModel, sae: SAE, tmp_path: Path) -> None:
    said_by = [{"role": "user", "content": "Hello there"}, {"role": "assistant", "content": "It was the best of times"}]
    chats = [[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello there"}], "Hello", said_by]
    chatting = chat_model(tmp_path / "model", CHATML)
    reading = read_texts(chatting, sae, chats, hook=HOOK)
    first = reading.token_ids[: reading.offsets[1]], reading.parts[: reading.offsets[1]]
    said = {part: chatting.decode(first[0][first[1] == part].tolist()) for part in Part}
    assert (said[Part.SYSTEM], said[Part.USER], said[Part.ASSISTANT]) == ("Be brief.", "Hello there", "")
    assert said[Part.TEMPLATE].split() == ["system", "user", "assistant"]
    assert (reading.parts[reading.offsets[1] : reading.offsets[2]] == Part.TEXT).all()
    ids = chatting.tokenize(chatting.render_chat(said_by).text)
    x = chatting.activations(torch.tensor([ids]), HOOK)[0]
    x = x[[place for place, token in enumerate(ids) if token not in chatting.special_token_ids]].numpy()
    parts = reading.parts[reading.offsets[2] :]
    for role, part in (("user", Part.USER), ("assistant", Part.ASSISTANT)):
        own = x[parts == part]
        np.testing.assert_allclose(reading.residual[f"{role}-mean"][2], own.mean(axis=0), atol=1e-4)
        np.testing.assert_allclose(reading.residual[f"{role}-max"][2], own.max(axis=0), atol=1e-4)
        assert not reading.residual[f"{role}-mean"][1].any()
    with pytest.raises(ModelError, match="no chat template"):
        read_texts(model, sae, chats, hook=HOOK)
