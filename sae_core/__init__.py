"""Train and run sparse autoencoders on the activations of language models."""
