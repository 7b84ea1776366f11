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
from app.errors import TooLarge, Unavailable
from app.inference.residency import LRUCache, Residency, ResidentModules
from sae_core.checkpoints import save_sae
from sae_core.errors import SAEError
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


def tensor(megabytes: int) -> torch.nn.Module:
    """A module of this size."""
    return torch.nn.Linear(megabytes * 250_000, 1, bias=False)


def use(modules: ResidentModules, key: str, megabytes: int) -> None:
    with modules.use(key, megabytes * 1_000_000, lambda: tensor(megabytes)):
        pass


def test_modules_are_kept_by_bytes_and_the_least_recently_used_goes() -> None:
    modules = ResidentModules(10_000_000)
    for key, megabytes in (("a", 4), ("b", 4), ("a", 4), ("c", 4)):
        use(modules, key, megabytes)
    assert ("a" in modules, "b" in modules, "c" in modules) == (True, False, True)
    assert (modules.nbytes, modules.loads) == (8_000_000, 3)
    use(modules, "d", 9)
    assert ("a" in modules, "c" in modules, modules.nbytes) == (False, False, 9_000_000)


def test_room_is_made_before_loading() -> None:
    modules = ResidentModules(1_500_000)
    use(modules, "a", 1)

    def load() -> torch.nn.Module:
        assert "a" not in modules
        return tensor(1)

    with modules.use("b", 1_000_000, load):
        pass
    assert modules.nbytes == 1_000_000


def test_what_a_request_uses_is_never_evicted() -> None:
    modules = ResidentModules(10_000_000)
    with modules.use("a", 6_000_000, lambda: tensor(6)):
        with pytest.raises(TooLarge, match="of memory"), modules.use("b", 6_000_000, dict):
            raise AssertionError
        modules.clear()
        assert "a" in modules
        use(modules, "c", 4)
    modules.clear()
    assert modules.nbytes == 0


def test_what_can_never_fit_is_refused_before_it_is_loaded_and_evicts_nothing() -> None:
    modules = ResidentModules(10_000_000)
    use(modules, "a", 4)

    def load() -> torch.nn.Module:
        raise AssertionError

    with pytest.raises(TooLarge, match="SEESAE_INFERENCE_MEMORY"), modules.use("b", 11_000_000, load):
        raise AssertionError
    assert "a" in modules


def test_reserved_memory_is_kept_while_others_work() -> None:
    modules = ResidentModules(10_000_000)
    use(modules, "a", 4)
    with modules.reserve(6_000_000):
        with modules.reserve(1_000_000):
            assert "a" not in modules
        with pytest.raises(Unavailable, match="Try again in a moment"):
            modules.make_room(5_000_000)
        with pytest.raises(TooLarge):
            modules.make_room(11_000_000)
    modules.make_room(10_000_000)


def test_a_module_that_does_not_load_leaves_nothing_behind() -> None:
    modules = ResidentModules(10_000_000)

    def load() -> torch.nn.Module:
        raise SAEError("broken")

    with pytest.raises(SAEError), modules.use("a", 1_000_000, load):
        raise AssertionError
    assert modules.nbytes == 0
    use(modules, "a", 1)


def test_the_memory_of_a_loaded_model_and_sae_is_that_of_their_tensors(dictionary: Dictionary) -> None:
    residency = Residency(dictionary.settings)
    with residency.use(dictionary.ref) as (model, sae):
        parameters = {parameter.data_ptr(): parameter.nbytes for parameter in model.hf_model.parameters()}
        assert residency.modules.nbytes >= sum(parameters.values()) + sum(p.nbytes for p in sae.parameters())


def test_models_with_equal_weights_and_different_tokenizers_are_kept_apart(dictionary: Dictionary) -> None:
    residency, ref = Residency(dictionary.settings), dictionary.ref
    with residency.use(ref) as (first, _):
        pass
    with residency.use(ref) as (again, _):
        assert again is first
    tokenizer = Path(ref.model.source) / "tokenizer.json"
    original = tokenizer.read_bytes()
    merged = json.loads(original)
    merged["model"]["merges"].pop()
    tokenizer.write_text(json.dumps(merged))
    try:
        with pytest.raises(Unavailable, match="its tokenizer changed"), Residency(dictionary.settings).use(ref):
            raise AssertionError
        changed = load_model(ref.model.source, device="cpu", name="tiny")
        assert changed.weights_sha256 == first.weights_sha256
        other = replace(ref, model=replace(ref.model, tokenizer_sha256=changed.tokenizer_sha256))
        with residency.use(other) as (second, _):
            pass
    finally:
        tokenizer.write_bytes(original)
    assert second.tokenizer_sha256 == changed.tokenizer_sha256 != first.tokenizer_sha256


def test_models_with_equal_hashes_in_two_folders_are_kept_apart(dictionary: Dictionary, tmp_path: Path) -> None:
    residency = Residency(dictionary.settings)
    ref = dictionary.ref
    folder = tmp_path / "copy"
    shutil.copytree(ref.model.source, folder)  # what the hashes leave out, such as special tokens, may differ there
    copy = replace(ref, model=replace(ref.model, source=str(folder)))
    with residency.use(ref) as (first, _), residency.use(copy) as (second, _):
        assert (first.source, second.source) == (ref.model.source, str(folder))


def test_saes_with_equal_weights_and_different_configs_are_kept_apart(dictionary: Dictionary) -> None:
    residency = Residency(dictionary.settings)
    copy = replace(dictionary.ref, slug="sparser", artifact="saes/sparser")
    metadata = {"model_name": "tiny", "hook_name": "blocks.2.hook_resid_post"}
    save_sae(random_sae(dictionary.row.d_in, k=4), dictionary.settings.artifacts / copy.artifact, metadata)
    with residency.use(dictionary.ref) as (_, first), residency.use(copy) as (_, second):
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
    row = replace(dictionary.ref, artifact="saes/again")
    folder = dictionary.settings.artifacts / row.artifact
    metadata = {"model_name": "tiny", "hook_name": "blocks.2.hook_resid_post"}
    kept = []
    for k in (8, 4):
        save_sae(random_sae(dictionary.row.d_in, k=k), folder, metadata)
        with residency.use(row) as (_, sae):
            kept.append(sae.k)
        folder.rename(tmp_path / f"former-{k}")
    assert kept == [8, 4]
