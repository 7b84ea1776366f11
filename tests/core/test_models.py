import errno
import fcntl
import json
import os
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as tokenizer_models
from torch import Tensor, nn
from transformers import LlamaConfig, PreTrainedModel, PreTrainedTokenizerFast

from sae_core.errors import ArtifactError, ModelError
from sae_core.locks import folder_lock
from sae_core.models import HookPoint, LanguageModel, load_model
from sae_core.models.vocabulary import known_token_ids, token_bytes
from tests import tiny
from tests.tiny import _DIMENSIONS, BOS, EOS, FAMILIES, _random_model, documents, tiny_gguf, tiny_model, tiny_tokenizer

LoadFamily = Callable[[str], LanguageModel]
TEXTS = [
    "The quick brown fox, 1234 times.\n\n\tdef f(x):\r\n    return x  # ok",
    "emoji 🙂👩‍👩‍👧 flags 🇫🇷",
    "العربية والفارسية",
    "漢字とかな、中文",
    "naïve café — “quotes” … €",
    " leading and trailing ",
    "",
]


@pytest.fixture(params=sorted(FAMILIES))
def any_model(request: pytest.FixtureRequest, load_family: LoadFamily) -> LanguageModel:
    return load_family(request.param)


@pytest.fixture
def token_ids() -> Tensor:
    return torch.randint(3, 500, (2, 24), generator=torch.Generator().manual_seed(0))


def hidden_states(model: LanguageModel, token_ids: Tensor) -> tuple[Tensor, ...]:
    """The residual stream before each layer and, through the final norm, after the last one."""
    with torch.no_grad():
        return model.hf_model(token_ids, output_hidden_states=True, use_cache=False).hidden_states


# Hook points


@pytest.mark.parametrize(
    ("text", "hook"),
    [
        ("resid_post.9", HookPoint("resid_post", 9)),
        ("blocks.9.hook_resid_post", HookPoint("resid_post", 9)),
        ("blocks.0.hook_resid_pre", HookPoint("resid_pre", 0)),
        ("blocks.3.mlp.hook_out", HookPoint("mlp_out", 3)),
        ("blocks.3.hook_mlp_out", HookPoint("mlp_out_post", 3)),  # what the MLP adds, after any norm
    ],
)
def test_a_hook_point_is_read_in_either_notation(text: str, hook: HookPoint) -> None:
    assert HookPoint.parse(text) == hook
    assert HookPoint.parse(str(hook)) == hook
    assert HookPoint.parse(hook.transformer_lens) == hook


@pytest.mark.parametrize(
    "text", ["", "resid_post", "resid_post.x", "resid_post.-1", "banana.3", "lm_head", "blocks.9.hook_banana", "9"]
)
def test_an_invalid_hook_point_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ModelError, match=r"resid_post\.9"):
        HookPoint.parse(text)


def test_a_layer_out_of_range_is_refused_with_the_range(model: LanguageModel, token_ids: Tensor) -> None:
    with pytest.raises(ModelError, match="0 to 3"):
        model.activations(token_ids, HookPoint("resid_post", 4))
    with pytest.raises(ModelError, match="0 to 3"):
        model.d_in(HookPoint("resid_post", 400))


# Activations


def test_the_residual_stream_is_what_transformers_says(any_model: LanguageModel, token_ids: Tensor) -> None:
    states = hidden_states(any_model, token_ids)
    for layer in range(any_model.n_layers):
        before = any_model.activations(token_ids, HookPoint("resid_pre", layer))
        after = any_model.activations(token_ids, HookPoint("resid_post", layer))
        torch.testing.assert_close(before, states[layer])
        if layer < any_model.n_layers - 1:
            torch.testing.assert_close(after, states[layer + 1])
        else:  # transformers' last hidden state is behind the final norm
            with torch.no_grad():
                torch.testing.assert_close(any_model._eager.arch.final_norm(after), states[-1])
        assert after.dtype == torch.float32
        assert not torch.equal(before, after)


def test_sublayers_add_up_to_the_residual_stream(any_model: LanguageModel, token_ids: Tensor) -> None:
    def read(name: str) -> Tensor:
        return any_model.activations(token_ids, HookPoint(name, 2))

    added = read("attn_out_post") + read("mlp_out_post")
    torch.testing.assert_close(read("resid_pre") + added, read("resid_post"), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_the_mlp_is_what_its_module_returns(family: str, load_family: LoadFamily, token_ids: Tensor) -> None:
    model = load_family(family)
    mlp = model.hf_model.model.layers[1].mlp
    with torch.no_grad():
        expected = mlp(model.activations(token_ids, HookPoint("mlp_in", 1)))
    torch.testing.assert_close(model.activations(token_ids, HookPoint("mlp_out", 1)), expected)


def test_widths_follow_the_hook_point(model: LanguageModel) -> None:
    assert model.d_in(HookPoint("resid_post", 0)) == 32
    assert model.d_in(HookPoint("mlp_act", 0)) == 64


def count_calls(module: nn.Module) -> list[int]:
    calls: list[int] = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_the_forward_pass_stops_at_the_hook(tmp_path: Path, token_ids: Tensor) -> None:
    model = load_model(tiny_model(tmp_path / "llama"), device="cpu")
    calls = [count_calls(layer) for layer in model.hf_model.model.layers]
    head = count_calls(model.hf_model.lm_head)
    model.activations(token_ids, HookPoint("resid_post", 1))
    assert [len(layer) for layer in calls] == [1, 1, 0, 0]
    assert not head
    model.logits(token_ids)
    assert [len(layer) for layer in calls] == [2, 2, 1, 1]
    assert len(head) == 1


def count_hooks(model: LanguageModel) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.hf_model.modules())


def test_reading_leaves_no_hook_behind_and_no_trace_in_the_result(model: LanguageModel, token_ids: Tensor) -> None:
    logits = model.logits(token_ids)
    hook = HookPoint("resid_post", 1)
    hooks = count_hooks(model)
    captured = model.activations(token_ids, hook)
    kept = captured.clone()
    torch.testing.assert_close(model.logits(token_ids), logits, rtol=0, atol=0)
    model.activations(token_ids, HookPoint("resid_post", 3))
    assert torch.equal(captured, kept)
    assert count_hooks(model) == hooks


def test_activations_can_be_trained_on(model: LanguageModel, token_ids: Tensor) -> None:
    weight = torch.zeros(32, requires_grad=True)
    (model.activations(token_ids, HookPoint("resid_post", 1)) @ weight).sum().backward()
    assert weight.grad is not None
    assert weight.grad.abs().sum() > 0


def test_right_padding_changes_nothing_before_it(any_model: LanguageModel, token_ids: Tensor) -> None:
    hook = HookPoint("resid_post", 3)
    padded = torch.cat([token_ids, torch.full((2, 8), 2)], dim=1)
    torch.testing.assert_close(any_model.activations(padded, hook)[:, :24], any_model.activations(token_ids, hook))


def test_sequences_beyond_the_context_are_refused(model: LanguageModel) -> None:
    with pytest.raises(ModelError, match="at most 256 tokens, not 257"):
        model.activations(torch.zeros((1, 257), dtype=torch.long), HookPoint("resid_post", 0))


# Logits


@pytest.mark.parametrize("name", ["resid_pre", "resid_post", "mlp_out", "z"])
def test_replacing_activations_by_themselves_changes_nothing(
    any_model: LanguageModel, token_ids: Tensor, name: str
) -> None:
    logits = any_model.logits(token_ids)
    with torch.no_grad():
        torch.testing.assert_close(logits, any_model.hf_model(token_ids).logits)
    hook = HookPoint(name, 1)
    torch.testing.assert_close(any_model.logits(token_ids, hook, lambda x, _: x), logits)
    assert not torch.allclose(any_model.logits(token_ids, hook, lambda x, _: torch.zeros_like(x)), logits, atol=1e-3)


def test_replacing_sees_the_activations_and_what_follows_sees_the_replacement(
    model: LanguageModel, token_ids: Tensor
) -> None:
    hook = HookPoint("resid_post", 3)  # only the final norm and the unembedding follow
    seen = []

    def double(activations: Tensor, _read: Tensor) -> Tensor:
        seen.append(activations)
        return torch.ones_like(activations)

    logits = model.logits(token_ids, hook, double)
    assert torch.equal(seen[0], model.activations(token_ids, hook))
    with torch.no_grad():
        expected = model.hf_model.lm_head(model.hf_model.model.norm(torch.ones(32)))
    torch.testing.assert_close(logits, expected.expand_as(logits))


# Tokens


@pytest.mark.parametrize("text", TEXTS)
def test_byte_level_tokens_join_to_the_text(model: LanguageModel, text: str) -> None:
    vocabulary = model.token_bytes()
    token_ids = model.tokenize(text)
    assert b"".join(vocabulary[token_id] for token_id in token_ids[1:]).decode() == text
    assert model.decode(token_ids) == BOS + text
    assert model.decode(token_ids[1:]) == text


def test_every_token_has_bytes(any_model: LanguageModel) -> None:
    vocabulary = any_model.token_bytes()
    assert len(vocabulary) == any_model.vocab_size == 512
    assert all(vocabulary)
    assert vocabulary[1] == BOS.encode()
    assert len(set(vocabulary)) == 512


def test_ids_without_a_token_get_a_name(model: LanguageModel) -> None:
    assert token_bytes(model.tokenizer, 514)[512:] == [b"<unused 512>", b"<unused 513>"]
    assert known_token_ids(model.tokenizer, 514) == list(range(512))


def sentencepiece_tokenizer(decoder: decoders.Decoder) -> PreTrainedTokenizerFast:
    words = ["▁The", "▁fox", "é", "▁", "x"]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    merges = [(left, right) for word in ("▁The", "▁fox") for left, right in _left_merges(word)]
    for left, right in merges:
        for piece in (left, right, left + right):
            vocabulary.setdefault(piece, len(vocabulary))
    tokenizer = Tokenizer(tokenizer_models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    tokenizer.decoder = decoder
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def _left_merges(word: str) -> list[tuple[str, str]]:
    return [(word[:end], word[end]) for end in range(1, len(word))]


@pytest.mark.parametrize(
    "decoder",
    [
        decoders.Metaspace(),
        decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]),
    ],
)
def test_sentencepiece_tokens_join_to_the_text(decoder: decoders.Decoder) -> None:
    tokenizer = sentencepiece_tokenizer(decoder)
    vocabulary = token_bytes(tokenizer, len(tokenizer))
    for text in ["The fox", " The  fox é", "🙂 中文 العربية\n"]:
        token_ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert b"".join(vocabulary[token_id] for token_id in token_ids).decode() == text
    assert vocabulary[1] == b"<s>"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello", ["", "H", "el", "lo"]),
        (" Hello", ["", "", " H", "el", "lo"]),
        ("x é", ["", "", "x", " ", "", "é"]),
        ("x</s>", ["", "", "x", "</s>"]),
    ],
)
def test_characters_end_with_the_tokens_of_the_text_as_it_was_written(
    tmp_path: Path, text: str, expected: list[str]
) -> None:
    tiny_model(tmp_path)
    tiny.sentencepiece_tokenizer().save_pretrained(tmp_path)
    model = load_model(tmp_path, device="cpu")
    ends = model.character_ends(text, model.tokenize(text))
    assert [text[start:end] for start, end in pairwise([0, *ends])] == expected


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text())
def test_the_characters_of_any_text_end_with_its_tokens(model: LanguageModel, text: str) -> None:
    token_ids = model.tokenize(text)
    ends = model.character_ends(text, token_ids)
    assert len(ends) == len(token_ids)
    assert ends == sorted(ends)
    assert ends[-1] == len(text)


def test_a_vocabulary_of_another_kind_is_refused() -> None:
    tokenizer = Tokenizer(tokenizer_models.WordLevel({"a": 0}, unk_token="a"))
    with pytest.raises(ModelError, match="not supported"):
        token_bytes(PreTrainedTokenizerFast(tokenizer_object=tokenizer), 1)


def test_a_text_gets_exactly_one_bos(any_model: LanguageModel) -> None:
    bos = any_model.bos_token_id
    token_ids = any_model.tokenize("The fox")
    assert token_ids.count(bos) == 1
    assert token_ids[0] == bos
    assert any_model.tokenize(any_model.decode(token_ids)) == token_ids
    assert any_model.tokenize("") == [bos]
    assert any_model.tokenize(BOS) == [bos]


def test_special_tokens_are_known(any_model: LanguageModel) -> None:
    assert any_model.special_token_ids == {0, 1, 2}
    assert any_model.tokenize(f"a{EOS}b").count(any_model.eos_token_id) == 1


def test_a_missing_folder_beside_others_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"does not exist either: .*models holds no none\. Check the name") as raised:
        load_model("models/none")
    assert "\n" not in str(raised.value)
    with pytest.raises(ModelError) as raised:
        load_model("elsewhere/none")
    assert "as a path" not in str(raised.value).lower()


def test_a_text_for_an_sae_without_bos_gets_nothing_in_front(any_model: LanguageModel) -> None:
    with_bos, without = (any_model.tokenize("The fox", prepend_bos=wanted) for wanted in (True, False))
    assert with_bos == [*any_model.prefix(), *without]
    assert any_model.prefix(prepend_bos=False) == any_model.tokenize("", prepend_bos=False) == []
    assert any_model.tokenize(BOS, prepend_bos=False) == any_model.tokenize(BOS)


def test_a_tokenizer_without_bos_starts_with_eos(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "qwen3", "qwen3")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["bos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    model = load_model(folder, device="cpu")
    assert model.tokenizer.bos_token_id is None
    assert model.tokenize("The fox")[0] == model.eos_token_id == model.bos_token_id


# Loading


def test_a_models_hash_depends_on_its_contents(tmp_path: Path) -> None:
    one = load_model(tiny_model(tmp_path / "One_Llama", seed=0), device="cpu")
    same = load_model(tiny_model(tmp_path / "b", seed=0), device="cpu", name="same")
    other = load_model(tiny_model(tmp_path / "c", seed=1), device="cpu")
    assert one.weights_sha256 == same.weights_sha256 != other.weights_sha256
    assert one.tokenizer_sha256 == same.tokenizer_sha256 == other.tokenizer_sha256
    assert (one.name, same.name) == ("one-llama", "same")
    assert (one.n_layers, one.d_model, one.vocab_size, one.context_length) == (4, 32, 512, 256)


@pytest.mark.parametrize("source", ["/nowhere/model", "nowhere.gguf", "no where", "./model"])
def test_a_missing_model_is_refused(source: str) -> None:
    with pytest.raises(ModelError, match="There is no model at"):
        load_model(source, device="cpu")


def test_a_folder_or_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json"):
        load_model(tmp_path, device="cpu")
    (tmp_path / "model.txt").write_text("text")
    with pytest.raises(ModelError, match="not a model"):
        load_model(tmp_path / "model.txt", device="cpu")
    (tmp_path / "config.json").write_text('{"model_type": "unheard-of"}')
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(tmp_path, device="cpu")


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "llama")
    (folder / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(folder, device="cpu")
    (tmp_path / "damaged.gguf").write_bytes(b"damaged")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(tmp_path / "damaged.gguf", device="cpu", cache=tmp_path / "cache")


def test_a_hub_id_that_cannot_be_downloaded_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="Check the name and the network"):
        load_model("nobody/no-such-model", device="cpu")


def test_a_model_in_the_hubs_cache_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--owner--Tiny-Llama"
    folder = tiny_model(repository / "snapshots" / "0" / "x").rename(repository / "snapshots" / "1")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("1")
    model = load_model("owner/Tiny-Llama", device="cpu")
    assert model.name == "tiny-llama"
    assert model.weights_sha256 == load_model(folder, device="cpu").weights_sha256


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "cpux", "meta:x"])
def test_an_unknown_device_is_refused(device: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no device"):
        load_model(tiny_model(tmp_path / "llama"), device=device)


def test_the_fixture_text_survives_the_tiny_tokenizer(model: LanguageModel) -> None:
    for document in documents():
        assert model.decode(model.tokenize(document["text"])) == BOS + document["text"]


def test_a_gguf_file_gives_the_model_that_it_was_made_from(tmp_path: Path, token_ids: Tensor) -> None:
    original = load_model(tiny_model(tmp_path / "llama"), device="cpu")
    model = load_model(tiny_gguf(tmp_path / "Tiny.F32.gguf"), device="cpu")
    torch.testing.assert_close(model.logits(token_ids), original.logits(token_ids))
    assert model.name == "tiny-f32"
    assert model.special_token_ids == {0, 1, 2}
    for text in TEXTS:
        assert model.decode(model.tokenize(text)) == BOS + text


def test_a_gguf_file_is_dequantised_once(tmp_path: Path, token_ids: Tensor) -> None:
    file, cache = tiny_gguf(tmp_path / "tiny.gguf"), tmp_path / "cache"
    first = load_model(file, device="cpu", cache=cache)
    (weights,) = cache.rglob("model.safetensors")
    written = weights.stat().st_mtime_ns
    again = load_model(file, device="cpu", cache=cache)
    assert weights.stat().st_mtime_ns == written
    assert torch.equal(first.logits(token_ids), again.logits(token_ids))
    assert (first.weights_sha256, first.tokenizer_sha256) == (again.weights_sha256, again.tokenizer_sha256)
    tiny_gguf(file, seed=1)
    assert load_model(file, device="cpu", cache=cache).weights_sha256 != first.weights_sha256
    assert len(list(cache.rglob("model.safetensors"))) == 2


def test_a_dequantisation_that_was_killed_is_done_again(tmp_path: Path) -> None:
    file, cache = tiny_gguf(tmp_path / "tiny.gguf"), tmp_path / "cache"
    load_model(file, device="cpu", cache=cache)
    (folder,) = (path for path in cache.iterdir() if path.is_dir())
    (folder / "model.safetensors").rename(folder / "half-written.safetensors")
    folder.rename(cache / f".{folder.name}~host-1-0123.partial")
    load_model(file, device="cpu", cache=cache)
    assert [path.name for path in cache.iterdir() if path.is_dir()] == [folder.name]
    assert [path.name for path in folder.glob("*.safetensors")] == ["model.safetensors"]


# A tokenizer with more tokens than the model has rows


@pytest.fixture(scope="module")
def short_model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """A Llama of 400 rows with a tokenizer of 512 tokens, and a padding token beyond."""
    folder: Path = tmp_path_factory.mktemp("short")
    _random_model(LlamaConfig(**{**_DIMENSIONS, "vocab_size": 400}), 0).save_pretrained(folder)
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.save_pretrained(folder)
    return load_model(folder, device="cpu", name="short")


def test_a_token_without_a_row_is_refused_by_name(short_model: LanguageModel) -> None:
    text = "The quick brown fox jumps over the lazy dog <pad>"
    with pytest.raises(ModelError, match=r"short has no row for the token 512 \('<pad>'\): .* 400 rows"):
        short_model.tokenize(text)
    assert max(short_model.tokenize("xyz")) < 400


def test_a_cache_whose_file_system_has_no_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(ArtifactError, match="cannot be locked"):
        load_model(tiny_gguf(tmp_path / "tiny.gguf"), device="cpu", cache=tmp_path / "cache")


def test_waiting_for_another_dequantisation_can_be_stopped(tmp_path: Path) -> None:
    def stop(_holder: str) -> None:
        raise InterruptedError

    file, cache = tiny_gguf(tmp_path / "tiny.gguf"), tmp_path / "cache"
    load_model(file, device="cpu", cache=cache)
    (folder,) = cache.iterdir()
    shutil.rmtree(folder)
    with folder_lock(folder), pytest.raises(InterruptedError):
        load_model(file, device="cpu", cache=cache, waiting=stop)
    assert load_model(file, device="cpu", cache=cache, waiting=stop).name == "tiny"


def test_models_that_are_loaded_at_once_leave_nothing_behind(tmp_path: Path) -> None:
    folder, tie_weights = tiny_model(tmp_path / "tiny"), PreTrainedModel.tie_weights
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # so that threads overlap
    try:
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda _: load_model(folder, device="cpu"), range(24)))
        assert PreTrainedModel.tie_weights is tie_weights
    finally:
        sys.setswitchinterval(interval)
        PreTrainedModel.tie_weights = tie_weights  # for other tests, if this one fails


def test_gradients_reach_what_is_added_between_attention_and_mlp(load_family: LoadFamily, token_ids: Tensor) -> None:
    model = load_family("llama")
    gradients = []
    for point in ("resid_mid", "attn_out_post"):  # adding to either adds to the residual stream
        added = torch.zeros(32, requires_grad=True)
        logits = model.last_logits(token_ids, {HookPoint(point, 1): lambda x, added=added: x + added})
        gradients.append(torch.autograd.grad(logits.square().sum(), added)[0])
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)
    assert gradients[0].abs().max() > 0
