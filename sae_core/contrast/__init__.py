"""What distinguishes two groups of texts: features, words, and what may only look like it."""
