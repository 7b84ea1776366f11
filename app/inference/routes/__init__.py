"""Routes of the inference process: one module per operation."""

from app.inference.routes import attribute, blind, complete, edit, examples, generate, preloaded, probe, prompt, texts

ROUTERS = tuple(
    module.router for module in (probe, prompt, examples, texts, attribute, blind, edit, generate, complete, preloaded)
)
