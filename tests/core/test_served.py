"""Models on interp-engine's vLLM back end, with a stand-in for vLLM: they give what the eager path gives."""

from collections.abc import Callable, Iterator

import pytest
import torch

from sae_core.errors import BackendError, ModelError
from sae_core.models import HookPoint, LanguageModel, ServedModel, load_model
from sae_core.models.hooks import POINTS
from tests.tiny import tiny_gguf
from tests.vllm_stand_in import AsyncLLM, install, load_served

TEXT = "It was the best of times, it was the worst of times."


@pytest.fixture(scope="module")
def monkeymodule() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module", params=["llama", "gemma2", "gpt2"])
def pair(
    request: pytest.FixtureRequest, load_family: Callable[[str], LanguageModel], monkeymodule: pytest.MonkeyPatch
) -> Iterator[tuple[LanguageModel, ServedModel]]:
    eager = load_family(request.param)
    served = load_served(monkeymodule, eager.source)
    assert isinstance(served, ServedModel)
    yield eager, served
    served.close()


def test_it_is_described_as_the_eager_model_is(pair: tuple[LanguageModel, ServedModel]) -> None:
    eager, served = pair
    same = ("n_layers", "d_model", "vocab_size", "context_length", "bos_token_id", "eos_token_id", "end_token_ids")
    same += ("special_token_ids", "weights_sha256", "tokenizer_sha256", "source", "name", "dtype")
    for name in same:
        assert getattr(served, name) == getattr(eager, name), name
    assert served.tokenize(TEXT) == eager.tokenize(TEXT)
    assert served.token_bytes() == eager.token_bytes()


def test_activations_are_those_of_the_eager_path(pair: tuple[LanguageModel, ServedModel]) -> None:
    eager, served = pair
    ids = torch.tensor([eager.tokenize(TEXT), eager.tokenize(TEXT)[::-1]])
    read = 0
    for hook in (HookPoint(name, 1) for name in POINTS):
        try:
            expected = eager.activations(ids, hook)
        except ModelError:
            continue
        torch.testing.assert_close(served.activations(ids, hook), expected, atol=1e-5, rtol=1e-5)
        read += 1
    assert read >= 6
    hooks = HookPoint("resid_post", 2), HookPoint("resid_post", 0), HookPoint("resid_post", 2)
    torch.testing.assert_close(served.activations(ids, *hooks), eager.activations(ids, *hooks))
    assert served.d_in(hooks[0]) == eager.d_in(hooks[0])


def test_logits_of_parts_are_those_of_the_eager_path(pair: tuple[LanguageModel, ServedModel]) -> None:
    eager, served = pair
    ids = torch.tensor([eager.tokenize(TEXT)])
    ours, theirs = served.new_cache(), eager.new_cache()
    for part, last_only in ((ids[:, :5], False), (ids[:, 5:6], False), (ids[:, 6:], True)):
        found = served.extend(part, ours, last_only=last_only)
        torch.testing.assert_close(found, eager.extend(part, theirs, last_only=last_only), atol=1e-4, rtol=1e-4)
    assert ours.get_seq_length() == ids.shape[1]


def test_a_pass_can_be_stopped_before_it_begins(pair: tuple[LanguageModel, ServedModel]) -> None:
    class Gone(Exception):
        pass

    def gone() -> None:
        raise Gone

    before = AsyncLLM.running[-1].passes
    with pytest.raises(Gone):
        pair[1].activations(torch.tensor([[1, 2, 3]]), HookPoint("resid_post", 3), after_block=gone)
    assert AsyncLLM.running[-1].passes == before


def test_what_it_cannot_do_is_refused(pair: tuple[LanguageModel, ServedModel]) -> None:
    served, ids = pair[1], torch.tensor([[1, 2, 3]])
    with pytest.raises(BackendError, match="layer 9 is out of range"):
        served.activations(ids, HookPoint("resid_post", 9))
    for refused in (
        lambda: served.hf_model,
        lambda: served.resolve(HookPoint("resid_post", 0)),
        lambda: served.logits(ids),
        lambda: served.last_logits(ids, {}),
        served.input_tokens,
    ):
        with pytest.raises(BackendError, match="neither gradients nor modules"):
            refused()
    assert not served.failed
    with pytest.raises(ModelError, match="at most 256 tokens, not 300"):
        served.activations(torch.ones(1, 300, dtype=torch.long), HookPoint("resid_post", 0))


def test_a_failure_of_vllm_says_so(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    served = load_served(monkeypatch, model.source)
    assert isinstance(served, ServedModel)

    async def dead(*_args: object, **_options: object) -> None:
        raise ConnectionError("EngineCore died.")

    monkeypatch.setattr(AsyncLLM, "collective_rpc", dead)
    with pytest.raises(ModelError, match="vLLM failed on llama: ConnectionError, EngineCore died"):
        served.activations(torch.tensor([[1, 2]]), HookPoint("resid_post", 0))
    assert served.failed
    served.close()


def test_a_gguf_file_is_dequantised_once_for_both(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("gguf")
    file, cache = tiny_gguf(folder / "tiny.gguf"), folder / "models"
    install(monkeypatch)
    with pytest.raises(ModelError, match="Give a folder to keep them in"):
        load_model(file, device="cpu", backend="vllm")
    served = load_model(file, device="cpu", cache=cache, backend="vllm")
    eager = load_model(file, device="cpu", cache=cache)
    assert isinstance(served, ServedModel)
    assert served.weights_sha256 == eager.weights_sha256
    ids, hook = torch.tensor([eager.tokenize(TEXT)]), HookPoint("resid_post", 2)
    torch.testing.assert_close(served.activations(ids, hook), eager.activations(ids, hook))
    served.close()
    assert len(list(cache.iterdir())) == 1


def test_vllm_is_set_up_so_that_a_text_runs_in_one_piece(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    served = load_served(monkeypatch, model.source)
    assert isinstance(served, ServedModel)
    arguments = AsyncLLM.running[-1].arguments
    assert (arguments.max_num_seqs, arguments.max_num_batched_tokens, arguments.max_model_len) == (1, 256, 256)
    assert (arguments.enforce_eager, arguments.trust_remote_code, arguments.dtype) == (True, False, "float32")
    served.close()
    assert all(engine.arguments is not arguments for engine in AsyncLLM.running)
