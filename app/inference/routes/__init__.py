"""Routes of the inference process: one module per operation."""

from app.inference.routes import examples, preloaded, probe, prompt, texts

ROUTERS = (probe.router, prompt.router, examples.router, texts.router, preloaded.router)
