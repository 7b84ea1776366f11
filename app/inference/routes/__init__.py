"""Routes of the inference process: one module per operation."""

from app.inference.routes import (
    attribute,
    blind,
    complete,
    edit,
    examples,
    generate,
    preloaded,
    probe,
    prompt,
    score,
    texts,
)

_MODULES = (probe, prompt, examples, texts, attribute, blind, edit, generate, complete, score, preloaded)
ROUTERS = tuple(module.router for module in _MODULES)
