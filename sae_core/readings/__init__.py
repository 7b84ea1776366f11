"""What a model and an SAE make of texts, token by token: read once, kept on disk, pooled as it is asked for."""

from sae_core.readings.pooling import Pool, Tokens, count_tokens, pool_features, pool_scores, selected_tokens
from sae_core.readings.read import Text, TextTokens, batches_by_length, encode_tokens, read_texts, tokenize_text
from sae_core.readings.reading import Part, Reading, join_readings, load_reading, select_texts

__all__ = [
    "Part",
    "Pool",
    "Reading",
    "Text",
    "TextTokens",
    "Tokens",
    "batches_by_length",
    "count_tokens",
    "encode_tokens",
    "join_readings",
    "load_reading",
    "pool_features",
    "pool_scores",
    "read_texts",
    "select_texts",
    "selected_tokens",
    "tokenize_text",
]
