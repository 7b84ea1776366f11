"""Tiny but real language models: `transformers` architectures, random weights, a tokenizer trained on real text.

Everything is deterministic in `seed`, takes well under a second and fits in a few hundred kilobytes.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

CORPUS_FILE = Path(__file__).parent / "fixtures" / "public_domain.jsonl"
"""20 documents (title, topic, text) of public-domain English, 17,000 characters."""

BOS, EOS, UNK = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
VOCABULARY = 512

_DIMENSIONS: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
}
_NEOX_DIMENSIONS = {key: value for key, value in _DIMENSIONS.items() if key not in ("num_key_value_heads", "head_dim")}

FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaConfig(**_DIMENSIONS),
    "gpt2": lambda: GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=4, n_head=4, n_inner=64, n_positions=256),
    "gpt_neox": lambda: GPTNeoXConfig(**_NEOX_DIMENSIONS),
    "gemma2": lambda: Gemma2Config(**_DIMENSIONS, sliding_window=16),
    "gemma3": lambda: Gemma3TextConfig(**_DIMENSIONS, sliding_window=16),
    "qwen2": lambda: Qwen2Config(**_DIMENSIONS),
    "qwen3": lambda: Qwen3Config(**_DIMENSIONS),
    "mistral": lambda: MistralConfig(**_DIMENSIONS, sliding_window=64),
}
"""Every family has 4 layers, d_model 32, d_mlp 64, 512 tokens and a context of 256 tokens."""


def documents() -> list[dict[str, str]]:
    """The fixture corpus: title, topic and text of each document."""
    return [json.loads(line) for line in CORPUS_FILE.read_text(encoding="utf-8").splitlines()]


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 512 tokens trained on the fixture corpus: 0 `UNK`, 1 `BOS`, 2 `EOS`, as in SmolLM2."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[UNK, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((document["text"] for document in documents()), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, unk_token=UNK)


def sentencepiece_tokenizer() -> PreTrainedTokenizerFast:
    """A sentencepiece BPE of letters and bytes: it begins a text with a space, and `He` takes two tokens."""
    letters = [chr(code) for code in range(33, 127)]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters, "▁", "▁H", "el", "lo"]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={piece: number for number, piece in enumerate(pieces)},
            merges=[("▁", "H"), ("e", "l"), ("l", "o")],
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    replace = decoders.Replace("▁", " ")
    tokenizer.decoder = decoders.Sequence(
        [replace, decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def tiny_model(folder: Path, family: str = "llama", *, seed: int = 0) -> Path:
    """Save a random model of `family` with its tokenizer to `folder`, as `save_pretrained` lays it out.

    Weights are drawn wide (and norms moved off 1), so that layers, positions and norm conventions can be told apart.
    """
    _random_model(FAMILIES[family](), seed).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def _random_model(config: Any, seed: int) -> Any:
    config.bos_token_id, config.eos_token_id, config.pad_token_id = 1, 2, 2
    generator = torch.Generator().manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.1 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5
            noise = torch.randn(parameter.shape, generator=generator) * scale
            parameter.copy_(noise if parameter.ndim > 1 else parameter + noise)
    return model


def tiny_gguf(file: Path, *, seed: int = 0, quantised: gguf.GGMLQuantizationType | None = None) -> Path:
    """Write the Llama that `tiny_model` makes from the same seed, and its tokenizer, as a GGUF file.

    `quantised` is the type of its matrices; float32 by default.
    """
    config = FAMILIES["llama"]()
    model = _random_model(config, seed)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(VOCABULARY)
    state = json.loads(tiny_tokenizer().backend_tokenizer.to_str())["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(sorted(state["vocab"], key=state["vocab"].__getitem__))
    writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (VOCABULARY - 3))
    writer.add_token_merges([" ".join(merge) for merge in state["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        parent = name.split(".")[-2]
        rotary = tensor if parent not in heads else _interleave_rotary_halves(tensor, heads[parent])
        data = rotary.numpy()
        kind = quantised if data.ndim == 2 else None
        stored = data if kind is None else gguf.quants.quantize(data, kind)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _interleave_rotary_halves(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of a query or key projection in llama.cpp's order, where the two dimensions of a rotation are neighbours."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, weight.shape[1])
    return halves.transpose(1, 2).reshape(weight.shape).contiguous()
