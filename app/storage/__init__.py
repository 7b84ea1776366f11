"""Files under SEESAE_ARTIFACTS: which are needed, and how the others are removed."""
