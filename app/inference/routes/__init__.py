"""Routes of the inference process: one module per operation."""

from app.inference.routes import attribute, examples, generate, preloaded, probe, texts

ROUTERS = (probe.router, examples.router, texts.router, attribute.router, generate.router, preloaded.router)
