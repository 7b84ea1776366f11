"""A package `vllm` that is not vLLM: its engine runs a model of `transformers` in this process.

Everything of interp-engine's back end is real: its `VLLMModel` in front, what crosses to the workers, and its workers'
methods, hooks and row bookkeeping. What is not: vLLM's engine, its kernels, its scheduling, its processes. So a test
with it says that we speak interp-engine's protocol, and not that anything ran on a GPU.
"""

import importlib
import sys
from collections.abc import AsyncIterator
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from transformers import AutoModelForCausalLM

from sae_core.models import LanguageModel, load_model


class _Arguments(SimpleNamespace):
    """`SamplingParams` and `AsyncEngineArgs`: hold what they are given."""


class _Runner:
    def __init__(self, model: Any) -> None:
        self.model = model

    def prepare_inputs(self, request: tuple[str, int]) -> Any:
        """Of vLLM's second runner: says which rows of the pass are of which request."""
        req_id, tokens = request
        return SimpleNamespace(req_ids=[req_id], num_scheduled_tokens=[tokens], num_computed_tokens_np=[0])


class AsyncLLM:
    """vLLM's engine, as far as interp-engine calls it."""

    running: ClassVar[list["AsyncLLM"]] = []

    def __init__(self, arguments: Any) -> None:
        self.arguments = arguments
        self.passes = 0
        model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=getattr(torch, arguments.dtype))
        model.compute_logits = partial(_compute_logits, model)
        module, _, name = arguments.worker_extension_cls.rpartition(".")
        self.worker = type("Worker", (getattr(importlib.import_module(module), name),), {})()
        self.worker.model_runner = _Runner(model)
        self.running.append(self)

    @classmethod
    def from_engine_args(cls, arguments: Any) -> "AsyncLLM":
        return cls(arguments)

    async def collective_rpc(self, method: str, args: tuple[Any, ...] = ()) -> list[Any]:
        _require_plain(args)
        return [getattr(self.worker, method)(*args)]

    async def generate(self, prompt: dict[str, Any], sampling: Any, req_id: str) -> AsyncIterator[Any]:
        ids, runner = prompt["prompt_token_ids"], self.worker.model_runner
        assert len(ids) + sampling.max_tokens <= self.arguments.max_model_len, "vLLM refuses a longer text"
        self.passes += 1
        runner.prepare_inputs((req_id, len(ids)))
        with torch.no_grad():
            token_id = int(runner.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        yield SimpleNamespace(outputs=[SimpleNamespace(token_ids=[token_id], text="", logprobs=None)])

    def shutdown(self) -> None:
        self.running.remove(self)


def _compute_logits(model: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Unembed as vLLM's models do, softcap included."""
    logits: torch.Tensor = model.lm_head(hidden)
    cap = getattr(model.config, "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)


def _require_plain(value: Any) -> None:
    """Refuse what vLLM does not send to a worker."""
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list | tuple):
        for part in value:
            _require_plain(part)
    else:
        assert isinstance(value, str | bytes | bytearray | int | float | None), type(value)


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `import vllm` find this."""
    package, engine = ModuleType("vllm"), ModuleType("vllm.v1.engine.async_llm")
    package.__spec__ = ModuleSpec("vllm", None)
    package.__dict__.update(SamplingParams=_Arguments, AsyncEngineArgs=_Arguments, __version__="0.0-stand-in")
    engine.__dict__.update(AsyncLLM=AsyncLLM)
    made = {"vllm": package, "vllm.v1": ModuleType("vllm.v1"), "vllm.v1.engine": ModuleType("vllm.v1.engine")}
    for name, module in {**made, "vllm.v1.engine.async_llm": engine}.items():
        monkeypatch.setitem(sys.modules, name, module)


def load_served(monkeypatch: pytest.MonkeyPatch, source: str | Path) -> LanguageModel:
    """Load a model on it."""
    install(monkeypatch)
    return load_model(source, device="cpu", backend="vllm")
