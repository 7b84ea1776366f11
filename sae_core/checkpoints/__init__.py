"""Public checkpoint formats: one file a format."""
