"""The bytes that each token of a vocabulary stands for."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int64
from torch import Tensor

from sae_core.errors import ModelError

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SENTENCEPIECE_SPACE = "▁"


@dataclass(frozen=True)
class InputTokens:
    """What is known of each token id before it is read in a text."""

    embeddings: Float[Tensor, "token d_model"]
    """As the weights have them: what a model multiplies them by is not in it."""
    spellings: Int64[np.ndarray, " vocab"]
    """As `spellings` numbers them."""


def spellings(tokens: Sequence[bytes]) -> Int64[np.ndarray, " vocab"]:
    """Number the tokens so that those which differ in case and white space alone have one number."""
    numbers: dict[str, int] = {}
    found = []
    for token in tokens:
        text = token.decode(errors="replace")
        found.append(numbers.setdefault(text.strip().casefold() or text, len(numbers)))
    return np.array(found, np.int64)


def token_bytes(tokenizer: Any, vocab_size: int) -> list[bytes]:
    """Bytes of every token, so that a text's tokens joined give its UTF-8.

    A special token gives its own text. An id that only the model has (its embedding is padded) gives `<unused 123>`.

    Args:
        tokenizer: a fast `transformers` tokenizer, byte-level BPE or sentencepiece.
        vocab_size: entries to return.

    Raises:
        ModelError: the tokenizer is of another kind.
    """
    decoder = json.loads(tokenizer.backend_tokenizer.to_str())["decoder"]
    convert = _converter(_decoder_types(decoder))
    added = {token_id: token.content for token_id, token in tokenizer.added_tokens_decoder.items()}
    result = []
    for token_id in range(vocab_size):
        token = tokenizer.backend_tokenizer.id_to_token(token_id)
        if token_id in added:
            result.append(added[token_id].encode())
        elif token:
            result.append(convert(token))
        else:
            result.append(f"<unused {token_id}>".encode())
    return result


def known_token_ids(tokenizer: Any, vocab_size: int) -> list[int]:
    """Return the ids below `vocab_size` that the tokenizer has a token for, ascending.

    A model may have more rows than that: its embedding is padded, or tokens were planned and never added.
    """
    added = tokenizer.added_tokens_decoder
    token = tokenizer.backend_tokenizer.id_to_token
    return [token_id for token_id in range(vocab_size) if token_id in added or token(token_id)]


def _decoder_types(decoder: dict[str, Any] | None) -> set[str]:
    """Types of a decoder of `tokenizers`, and of those inside it."""
    if decoder is None:
        return set()
    return {decoder["type"]}.union(*(_decoder_types(inner) for inner in decoder.get("decoders", [])))


def _converter(types: set[str]) -> Any:
    if "ByteLevel" in types:
        return _byte_level_bytes
    if types & {"Metaspace", "ByteFallback"}:
        return _sentencepiece_bytes
    raise ModelError(
        f"The tokenizer's decoder ({', '.join(sorted(types)) or 'none'}) is not supported: "
        "SeeSAE reads byte-level BPE and sentencepiece vocabularies. Choose another model."
    )


def _sentencepiece_bytes(token: str) -> bytes:
    if match := _BYTE_TOKEN.fullmatch(token):
        return bytes.fromhex(match[1])
    return token.replace(_SENTENCEPIECE_SPACE, " ").encode()


def _byte_of_character() -> dict[str, int]:
    """GPT-2's alphabet: printable Latin-1 characters stand for themselves, the other bytes for U+0100 and on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + rank): byte for rank, byte in enumerate(others)}


_BYTE_OF_CHARACTER = _byte_of_character()


def _byte_level_bytes(token: str) -> bytes:
    return bytes(_BYTE_OF_CHARACTER[character] for character in token)
