"""The readout reproduces the model's own logits, or is refused; and only what has a token is read out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GPTNeoXConfig, LlamaForCausalLM, OPTConfig

from sae_core.models import HookPoint, LanguageModel, ReadoutError, load_model
from tests.tiny import _NEOX_DIMENSIONS, FAMILIES, _random_model, tiny_model, tiny_tokenizer

LAST = HookPoint("resid_post", 3)


def opt_350m() -> Any:
    """OPT-350m's kind: no final norm, though every layer has one of the name; a projection before the unembedding."""
    return OPTConfig(
        vocab_size=512,
        hidden_size=32,
        ffn_dim=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=256,
        do_layer_norm_before=False,
        word_embed_proj_dim=16,
    )


def opt_125m() -> Any:
    """The other OPTs: a final norm, and no projection."""
    config = opt_350m()
    config.do_layer_norm_before, config.word_embed_proj_dim = True, 32
    return config


def padded() -> Any:
    return GPTNeoXConfig(**{**_NEOX_DIMENSIONS, "vocab_size": 640})


CONFIGS: dict[str, Callable[[], Any]] = {**FAMILIES, "opt_350m": opt_350m, "opt_125m": opt_125m, "padded": padded}


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def any_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder: Path = tmp_path_factory.mktemp(request.param)
    hf_model = _random_model(CONFIGS[request.param](), 0)
    if request.param == "padded":
        with torch.no_grad():
            hf_model.get_output_embeddings().weight[512:] *= 20  # rows that were never trained can be anything
    hf_model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return load_model(folder, device="cpu", name=request.param)


@pytest.fixture
def token_ids() -> Tensor:
    return torch.randint(3, 500, (2, 24), generator=torch.Generator().manual_seed(0))


def test_the_readout_reproduces_the_models_own_logits(any_model: LanguageModel, token_ids: Tensor) -> None:
    residual = any_model.activations(token_ids, LAST)
    own = any_model.logits(token_ids)
    torch.testing.assert_close(any_model.readout().logits(residual), own, rtol=1e-4, atol=1e-4)


def test_output_directions_predict_how_logits_move(any_model: LanguageModel, token_ids: Tensor) -> None:
    """Along a direction that leaves the norm's denominator as it is, logits are linear to first order."""
    output = any_model.output_directions()
    assert output.by_token.shape == (32, 512)
    torch.testing.assert_close(output.by_token.mean(dim=1), torch.zeros(32), rtol=0, atol=1e-5)
    x = any_model.activations(token_ids, LAST)[0, -1]
    normalised = x - x.mean() if any_model.name in ("gpt2", "gpt_neox", "opt_125m", "padded") else x
    direction = torch.randn(32, generator=torch.Generator().manual_seed(1)) + 1
    direction -= normalised * (direction @ normalised) / (normalised @ normalised)

    def logits(residual: Tensor) -> Tensor:
        """The model's own, of the tokens that there are, before any soft cap."""

        def replace(activations: Tensor, _: Tensor) -> Tensor:
            return residual.expand_as(activations)

        logits = any_model.logits(token_ids[:1, :1], LAST, replace)[0, 0, :512].double()
        cap = any_model.readout().softcap
        uncapped = logits if cap is None else cap * torch.atanh(logits / cap)
        return uncapped - uncapped.mean()

    moved = (logits(x + 1e-2 * direction) - logits(x - 1e-2 * direction)).float()
    expected = direction @ output.by_token
    assert torch.cosine_similarity(moved, expected, dim=0) > 0.9999


def test_rows_without_a_token_are_in_neither_the_list_nor_the_centring(any_model: LanguageModel) -> None:
    output = any_model.output_directions()
    assert output.token_ids.tolist() == list(range(512))
    rows = any_model.hf_model.get_output_embeddings().weight.detach()
    assert len(rows) == any_model.vocab_size
    centred = rows[:512] - rows[:512].mean(dim=0)
    gain = torch.linalg.lstsq(centred, output.by_token.T).solution  # linear in the rows that have a token
    torch.testing.assert_close(centred @ gain, output.by_token.T, rtol=1e-3, atol=1e-3)


def test_half_precision_is_no_reason_to_refuse(any_model: LanguageModel) -> None:
    exact = any_model.output_directions().by_token
    any_model.hf_model.to(torch.bfloat16)
    try:
        rounded = any_model.output_directions().by_token
    finally:
        any_model.hf_model.to(torch.float32)
    assert torch.cosine_similarity(exact.flatten(), rounded.flatten(), dim=0) > 0.999


@pytest.fixture
def llama(tmp_path: Path) -> LanguageModel:
    return load_model(tiny_model(tmp_path / "llama"), device="cpu")


class Doubled(LlamaForCausalLM):
    """Does to its logits what no module shows."""

    def forward(self, **inputs: Any) -> Any:
        output = super().forward(**inputs)
        output.logits = output.logits * 2
        return output


def test_logits_that_its_modules_do_not_give_are_refused(llama: LanguageModel) -> None:
    llama.hf_model.__class__ = Doubled
    with pytest.raises(ReadoutError, match="gives other logits"):
        llama.output_directions()


def test_logits_that_are_not_linear_are_refused(llama: LanguageModel) -> None:
    llama.hf_model.model.norm = nn.Sequential(llama.hf_model.model.norm, nn.Tanh())
    with pytest.raises(ReadoutError, match="not linear"):
        llama.output_directions()


def test_an_unembedding_that_is_not_the_last_module_is_refused(llama: LanguageModel) -> None:
    llama.hf_model.lm_head = nn.Sequential(llama.hf_model.lm_head, nn.Tanh())
    with pytest.raises(ReadoutError, match="not the last module"):
        llama.output_directions()


def test_nothing_stays_hooked_to_the_model(any_model: LanguageModel) -> None:
    any_model.readout()
    modules = any_model.hf_model.modules()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)


@pytest.mark.parametrize(
    ("family", "points"),
    [
        ("llama", {"resid_pre", "resid_mid", "resid_post", "attn_out", "attn_out_post", "mlp_out", "mlp_out_post"}),
        ("gemma2", {"resid_pre", "resid_mid", "resid_post", "attn_out_post", "mlp_out_post"}),
    ],
)
def test_points_that_write_to_the_residual_stream(
    family: str, points: set[str], load_family: Callable[[str], LanguageModel]
) -> None:
    names = {*points, "attn_in", "z", "attn_out", "mlp_in", "mlp_act", "mlp_out"}
    model = load_family(family)
    assert {name for name in names if model.writes_residual(HookPoint(name, 1))} == points
