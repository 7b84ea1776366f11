import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from app.artifacts import store_key
from app.errors import Unavailable
from app.inference.residency import LRUCache, Residency
from sae_core.checkpoints import save_sae
from sae_core.models import load_model
from sae_core.saes import TopK
from tests.app.inference.dictionaries import Dictionary, random_sae


def test_the_least_recently_used_value_is_evicted() -> None:
    loaded: list[str] = []
    kept: LRUCache[str, str] = LRUCache(2)

    def get(key: str) -> str:
        def load() -> str:
            loaded.append(key)
            return key.upper()

        return kept.get(key, load)

    assert [get(key) for key in "abacab"] == ["A", "B", "A", "C", "A", "B"]
    assert loaded == ["a", "b", "c", "b"]  # a stayed, because it was used between


def test_eviction_comes_before_loading() -> None:
    alive = 0

    class Model:
        def __init__(self) -> None:
            nonlocal alive
            alive += 1
            assert alive == 1

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    models: LRUCache[int, Model] = LRUCache(1)
    for number in range(3):
        models.get(number, Model)
    assert alive == 1
    models.clear()
    assert alive == 0


def test_models_with_equal_weights_and_different_tokenizers_are_kept_apart(dictionary: Dictionary) -> None:
    residency = Residency(dictionary.settings)
    first = residency.model(dictionary.row.model)
    assert residency.model(dictionary.row.model) is first
    tokenizer = Path(dictionary.row.model.source) / "tokenizer.json"
    original = tokenizer.read_bytes()
    merged = json.loads(original)
    merged["model"]["merges"].pop()
    tokenizer.write_text(json.dumps(merged))
    try:
        with pytest.raises(Unavailable, match="its tokenizer changed"):
            Residency(dictionary.settings).model(dictionary.row.model)
        changed = load_model(dictionary.row.model.source, device="cpu", name="tiny")
        assert changed.weights_sha256 == first.weights_sha256
        second = residency.model(replace(dictionary.row.model, tokenizer_sha256=changed.tokenizer_sha256))
    finally:
        tokenizer.write_bytes(original)
    assert second.tokenizer_sha256 == changed.tokenizer_sha256 != first.tokenizer_sha256


def test_models_with_equal_hashes_in_two_folders_are_kept_apart(dictionary: Dictionary, tmp_path: Path) -> None:
    residency = Residency(dictionary.settings)
    first = residency.model(dictionary.row.model)
    folder = tmp_path / "copy"
    shutil.copytree(first.source, folder)  # what the hashes leave out, such as special tokens, may differ there
    second = residency.model(replace(dictionary.row.model, source=str(folder)))
    assert (first.source, second.source) == (dictionary.row.model.source, str(folder))


def test_saes_with_equal_weights_and_different_configs_are_kept_apart(dictionary: Dictionary) -> None:
    residency, cpu = Residency(dictionary.settings), torch.device("cpu")
    first = residency.sae(dictionary.row, cpu)
    assert residency.sae(dictionary.row, cpu) is first
    copy = replace(dictionary.row, slug="sparser", artifact="saes/sparser")
    metadata = {"model_name": "tiny", "hook_name": "blocks.2.hook_resid_post"}
    save_sae(random_sae(dictionary.row.d_in, k=4), dictionary.settings.artifacts / copy.artifact, metadata)
    second = residency.sae(copy, cpu)
    assert isinstance(first, TopK)
    assert isinstance(second, TopK)
    assert (first.config.k, second.config.k) == (8, 4)


def test_one_store_is_opened_while_another_is_being_hashed(
    dictionary: Dictionary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    residency = Residency(dictionary.settings.model_copy(update={"home": tmp_path}))
    index = SimpleNamespace(sequence_set=SimpleNamespace(sha256="1" * 64))
    slow, fast = (replace(dictionary.row, slug=slug) for slug in ("slow", "fast"))
    for row in (slow, fast):
        (tmp_path / "artifacts" / "indexes" / store_key(row, "1" * 64)).mkdir(parents=True)
    hashing, go_on = threading.Event(), threading.Event()
    opened = []

    def open_store(folder: Path) -> str:
        opened.append(folder.name)
        if folder.name == store_key(slow, "1" * 64):
            hashing.set()
            assert go_on.wait(30)
        return folder.name

    monkeypatch.setattr("app.inference.residency.ActivationStore.open", open_store)
    with ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(residency.store, slow, index) for _ in range(2)]
        assert hashing.wait(30)
        assert residency.store(fast, index) == store_key(fast, "1" * 64)
        go_on.set()
        assert {found.result() for found in waiting} == {store_key(slow, "1" * 64)}
    assert len(opened) == 2  # two that ask for one store hash it once


def test_an_sae_that_was_made_again_is_loaded_again(dictionary: Dictionary, tmp_path: Path) -> None:
    residency = Residency(dictionary.settings)
    row = replace(dictionary.row, artifact="saes/again")
    folder = dictionary.settings.artifacts / row.artifact
    metadata = {"model_name": "tiny", "hook_name": "blocks.2.hook_resid_post"}
    kept = []
    for k in (8, 4):
        save_sae(random_sae(dictionary.row.d_in, k=k), folder, metadata)
        kept.append(residency.sae(row, torch.device("cpu")).k)
        folder.rename(tmp_path / f"former-{k}")
    assert kept == [8, 4]
