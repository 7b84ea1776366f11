"""Tiny models, a small corpus and its sequences, made once a session."""

import inspect
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from sae_core.corpora import Corpus, Sequences, load_corpus, pack
from sae_core.models import LanguageModel, load_model
from tests.tiny import CORPUS_FILE, tiny_model

HAS_GPU = torch.cuda.is_available()


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Where kernels run: on a GPU, or in Triton's interpreter, which `tests/conftest.py` asks for before any import."""
    if request.param == "cuda" and not HAS_GPU:
        pytest.skip("needs an NVIDIA GPU")
    if request.param == "cpu" and HAS_GPU:
        pytest.skip("the GPU runs the kernels here, not the interpreter")
    assert HAS_GPU or os.environ.get("TRITON_INTERPRET") == "1", "set before Triton is imported"
    if request.param == "cpu":
        list_builtins_once()
    return torch.device(request.param)


@cache
def list_builtins_once() -> None:
    """Let the interpreter remember what it puts its own functions in the place of. For each call of a kernel, and of a
    function in one, it went through all of `triton.language` again: two fifths of the time of these tests."""
    interpreter = pytest.importorskip("triton.runtime.interpreter", reason="Triton is not installed")
    is_builtin = interpreter.tl.core.is_builtin

    @cache  # first called before anything is replaced
    def builtins(package: Any) -> list[str]:
        return [name for name, member in inspect.getmembers(package) if is_builtin(member)]

    def patch(package: Any, *how: Any) -> None:
        for name in builtins(package):
            if is_builtin(member := getattr(package, name)):  # not yet replaced
                interpreter._patch_attr(package, name, member, *how)

    interpreter._patch_builtin = patch


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny tensors gain nothing from threads, and lose much where several test processes share the cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def load_family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], LanguageModel]:
    """Load the tiny model of a family in `tests.tiny.FAMILIES`."""

    @cache
    def load(family: str) -> LanguageModel:
        folder: Path = tiny_model(tmp_path_factory.mktemp(family) / family, family)
        return load_model(folder, device="cpu")

    return load


@pytest.fixture(scope="session")
def model(load_family: Callable[[str], LanguageModel]) -> LanguageModel:
    """A tiny Llama."""
    return load_family("llama")


@pytest.fixture(scope="session")
def corpus() -> Corpus:
    """20 documents of public-domain English, with titles and topics."""
    return load_corpus(CORPUS_FILE, title="Public domain", licence="Public domain")


@pytest.fixture(scope="session")
def sequences(corpus: Corpus, model: LanguageModel) -> Sequences:
    """The corpus in sequences of 32 tokens."""
    return pack(corpus, model, length=32)


@pytest.fixture(params=["llama", "gpt2", "gpt_neox", "gemma2", "gemma3", "qwen2", "qwen3"])
def any_model(request: pytest.FixtureRequest, load_family: Callable[[str], LanguageModel]) -> LanguageModel:
    """A tiny model of each family."""
    return load_family(request.param)
