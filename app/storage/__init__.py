"""What is on disk under SEESAE_ARTIFACTS, what of it is needed, and how the rest is removed."""
