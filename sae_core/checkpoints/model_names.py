"""The hub's names of models that SAEs are published for."""

import re

# TransformerLens' names, which SAELens writes, from MODEL_ALIASES in transformer_lens/supported_models.py (version 3);
# those of Llama 3 are as Neuronpedia writes them. Names that the patterns below cover are left out.
_ALIASES = {
    "gpt2": "openai-community/gpt2",
    "gpt2-small": "openai-community/gpt2",
    "gpt2-medium": "openai-community/gpt2-medium",
    "gpt2-large": "openai-community/gpt2-large",
    "gpt2-xl": "openai-community/gpt2-xl",
    "gpt-oss-20b": "openai/gpt-oss-20b",
    "mistral-7b": "mistralai/Mistral-7B-v0.1",
    "llama3-8b-it": "meta-llama/Meta-Llama-3-8B-Instruct",
    "llama3.1-8b": "meta-llama/Llama-3.1-8B",
    "llama-3.1-8b": "meta-llama/Llama-3.1-8B",
    "gelu-1l": "NeelNanda/GELU_1L512W_C4_Code",
    "gelu-2l": "NeelNanda/GELU_2L512W_C4_Code",
    "tiny-stories-1l-21m": "roneneldan/TinyStories-1Layer-21M",
    "tiny-stories-33m": "roneneldan/TinyStories-33M",
}
_OWNERS = {r"pythia-\d.*": "EleutherAI", r"gemma-((2-)?\d+b(-it)?|3-270m(-it)?|3-\d+b-(pt|it))": "google"}
_QWEN = r"qwen([\d.]+)-([\d.]+)b(?:-(base|instruct|chat))?"


def hub_id(model_name: str) -> str:
    """Return the hub's name of a model that SAELens or another package calls `model_name`.

    `gpt2-small` -> `openai-community/gpt2`, `qwen2.5-0.5b-instruct` -> `Qwen/Qwen2.5-0.5B-Instruct`. A name that is
    not known stays as it is.
    """
    name = model_name.lower()
    if name in _ALIASES:
        return _ALIASES[name]
    for pattern, owner in _OWNERS.items():
        if re.fullmatch(pattern, name):
            return f"{owner}/{name}"
    if qwen := re.fullmatch(_QWEN, name):
        version, size, kind = qwen.groups()
        return f"Qwen/Qwen{version}-{size}B" + (f"-{kind.title()}" if kind else "")
    return model_name
