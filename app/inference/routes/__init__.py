"""Routes of the inference process: one module per operation."""

from app.inference.routes import attribute, examples, preloaded, probe, texts

ROUTERS = (probe.router, examples.router, texts.router, attribute.router, preloaded.router)
