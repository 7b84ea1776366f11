"""Tiny but real language models: `transformers` architectures with random weights, and a tokenizer trained on real text.

Everything is deterministic in `seed`, takes well under a second and fits in a few hundred kilobytes.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
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
    """A byte-level BPE of 512 tokens trained on the fixture corpus: 0 `UNK`, 1 `BOS`, 2 `EOS`, as SmolLM2 numbers them."""
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


def tiny_model(folder: Path, family: str = "llama", *, seed: int = 0) -> Path:
    """Save a random model of `family` with its tokenizer to `folder`, as `save_pretrained` lays it out.

    Weights are drawn wide (and norms moved off 1), so that layers, positions and norm conventions can be told apart.
    """
    config = FAMILIES[family]()
    config.bos_token_id, config.eos_token_id, config.pad_token_id = 1, 2, 2
    generator = torch.Generator().manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.1 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5
            noise = torch.randn(parameter.shape, generator=generator) * scale
            parameter.copy_(noise if parameter.ndim > 1 else parameter + noise)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
