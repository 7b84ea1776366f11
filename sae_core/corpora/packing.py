"""Pack documents into sequences of equal length that can be tokenised again to the same ids."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Int32, Int64
from numpy.typing import NDArray

from sae_core.corpora.reading import Corpus
from sae_core.corpora.sequences import DocumentInfo, Sequences
from sae_core.errors import CorpusError, ModelError
from sae_core.models import LanguageModel
from sae_core.progress import Progress, silent

_BATCH_CHARACTERS = 500_000
"""Text that is tokenised between two calls of `progress`."""
_PIECE_CHARACTERS = 20_000
"""Longer documents are tokenised in pieces: a tokenizer works on one text with one thread, and all at once."""
_MAX_BACKTRACK = 24
"""Most tokens that a cut may move back to the start of a word; only text without spaces has longer words."""
_MIN_LENGTH = 8


def pack(
    corpus: Corpus,
    model: LanguageModel,
    *,
    length: int = 128,
    max_tokens: int | None = None,
    seed: int = 0,
    prepend_bos: bool = True,
    progress: Progress = silent,
) -> Sequences:
    """Pack the documents of a corpus, shuffled, into sequences of `length` positions.

    A sequence is BOS and the tokens of one or more documents, joined by EOS. The rest continues in the next one, cut
    where a word begins (or a character, in text without spaces), so that the text of a sequence, tokenised again,
    nearly always gives the same ids. Positions that are left over are padding. No token of a document is lost.

    Args:
        corpus: documents to pack.
        model: whose tokenizer is used.
        length: positions in a sequence.
        max_tokens: stop when there are so many counted tokens.
        seed: of the documents' order.
        prepend_bos: False for an SAE that was trained on sequences without BOS in front.
        progress: gets documents done, and documents in all.

    Raises:
        CorpusError: the corpus does not fill two sequences, one to train on and one to hold out.
        ModelError: `length` is more than the model's context, or the model has no row for a token of the text.
    """
    if length < _MIN_LENGTH:
        raise CorpusError(f"Sequences of {length} tokens are too short. Use at least {_MIN_LENGTH}.")
    if model.context_length is not None and length > model.context_length:
        raise ModelError(
            f"{model.name} reads at most {model.context_length} tokens. Use sequences no longer than that."
        )
    stream = _Stream(model, model.prefix(prepend_bos=prepend_bos))
    rows: list[int] = []
    order = np.random.default_rng(seed).permutation(len(corpus.documents))
    for batch in _batches(corpus, order):
        _, texts = zip(*batch, strict=True)
        for (row, _), token_ids in zip(batch, _tokenise(model, texts), strict=True):
            if len(token_ids) and not stream.is_full(max_tokens):
                stream.append(token_ids, number=len(rows))
                rows.append(row)
        progress(len(rows), len(order))
        if stream.is_full(max_tokens):
            break
    progress(len(order), len(order))
    return _cut(stream, corpus, rows, model, length, max_tokens)


class _Stream:
    """The packed documents' tokens in one row, with a separator between any two; `prefix` starts each sequence."""

    def __init__(self, model: LanguageModel, prefix: list[int]) -> None:
        self.prefix = prefix
        self._require_row = model.require_row
        self.special = np.zeros(model.vocab_size, dtype=bool)
        self.special[[token_id for token_id in model.special_token_ids if token_id < model.vocab_size]] = True
        self.separator = [] if model.eos_token_id is None else [model.eos_token_id]
        self.n_counted = 0
        self._token_ids: list[NDArray[np.int32]] = []
        self._document_of: list[NDArray[np.int32]] = []

    def append(self, token_ids: Int32[np.ndarray, "token"], number: int) -> None:
        """Add document `number`, of at least one token."""
        self._require_row(int(token_ids.max()))
        if number > 0:
            self._token_ids.append(np.array(self.separator, dtype=np.int32))
            self._document_of.append(np.full(len(self.separator), -1, dtype=np.int32))
        self._token_ids.append(token_ids)
        self._document_of.append(np.full(len(token_ids), number, dtype=np.int32))
        self.n_counted += int((~self.special[token_ids]).sum())

    def is_full(self, max_tokens: int | None) -> bool:
        return max_tokens is not None and self.n_counted >= max_tokens

    def token_ids(self) -> Int32[np.ndarray, "token"]:
        return np.concatenate([np.zeros(0, dtype=np.int32), *self._token_ids])

    def document_of(self) -> Int32[np.ndarray, "token"]:
        return np.concatenate([np.zeros(0, dtype=np.int32), *self._document_of])


def _cut(
    stream: _Stream, corpus: Corpus, rows: list[int], model: LanguageModel, length: int, max_tokens: int | None
) -> Sequences:
    """Lay the stream out in sequences, and drop what is beyond `max_tokens`."""
    token_ids, document_of = stream.token_ids(), stream.document_of()
    if max_tokens is not None and stream.n_counted > max_tokens:
        end = int(np.searchsorted(np.cumsum(~stream.special[token_ids]), max_tokens)) + 1
        token_ids, document_of = token_ids[:end], document_of[:end]
    prefix = stream.prefix
    spans = _spans(token_ids, document_of, model, length - len(prefix))
    if len(spans) < 2:
        raise CorpusError(
            f"{corpus.title} holds only {len(token_ids)} tokens, and two sequences of {length} are needed: "
            "one to train on and one to hold out. Give more text, or use shorter sequences."
        )
    pad_token_id = next(
        token_id
        for token_id in (model.tokenizer.pad_token_id, model.eos_token_id, model.bos_token_id, 0)
        if token_id is not None and token_id < model.vocab_size  # a padding token may be the tokenizer's alone
    )
    packed_ids = np.full((len(spans), length), pad_token_id, dtype=np.int32)
    packed_documents = np.full((len(spans), length), -1, dtype=np.int32)
    counted = np.zeros((len(spans), length), dtype=bool)
    packed_ids[:, : len(prefix)] = prefix
    for sequence, (start, end) in enumerate(spans):
        positions = slice(len(prefix), len(prefix) + end - start)
        packed_ids[sequence, positions] = token_ids[start:end]
        packed_documents[sequence, positions] = document_of[start:end]
        counted[sequence, positions] = ~stream.special[token_ids[start:end]]
    return Sequences(
        length=length,
        pad_token_id=pad_token_id,
        token_ids=packed_ids,
        counted=counted,
        document_of=packed_documents,
        documents=_document_infos(corpus, rows),
        corpus=corpus.info,
        tokenizer_sha256=model.tokenizer_sha256,
    )


def _spans(
    token_ids: Int32[np.ndarray, "token"],
    document_of: Int32[np.ndarray, "token"],
    model: LanguageModel,
    capacity: int,
) -> list[tuple[int, int]]:
    """Return the start and end in the stream of each sequence."""
    first_byte = np.array([entry[0] for entry in model.token_bytes()], dtype=np.uint8)[token_ids]
    is_separator = document_of < 0
    last_word = _last_true(np.isin(first_byte, np.frombuffer(b" \t\r\n", dtype=np.uint8)) | is_separator)
    last_character = _last_true((first_byte & 0xC0) != 0x80)  # not inside a character's UTF-8
    spans = []
    start, total = 0, len(token_ids)
    while start < total:
        end = start + capacity
        if end >= total:
            end = total
        else:
            earliest = max(end - _MAX_BACKTRACK, start + 1)
            end = next((int(cut[end]) for cut in (last_word, last_character) if cut[end] >= earliest), end)
        spans.append((start, end))
        start = end + 1 if end < total and is_separator[end] else end
    return spans


def _last_true(flags: Bool[np.ndarray, "token"]) -> Int64[np.ndarray, "token"]:
    """Return for each position the last position up to it at which `flags` is true, or -1."""
    return np.maximum.accumulate(np.where(flags, np.arange(len(flags)), -1))


def _batches(corpus: Corpus, order: NDArray[np.int64]) -> Iterator[list[tuple[int, str]]]:
    """Yield row numbers and texts, in `order`, in batches of bounded size."""
    texts = corpus.documents.select_columns("text")
    batch: list[tuple[int, str]] = []
    characters = 0
    for row in order.tolist():
        text = texts[row]["text"]
        batch.append((row, text))
        characters += len(text)
        if characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _tokenise(model: LanguageModel, texts: tuple[str, ...]) -> Iterator[Int32[np.ndarray, "token"]]:
    """Yield the token ids of each text, without BOS."""
    pieces = [_pieces(text) for text in texts]
    encodings = iter(
        model.tokenizer.backend_tokenizer.encode_batch_fast(
            [p for of_text in pieces for p in of_text], add_special_tokens=False
        )
    )
    for of_text in pieces:
        yield np.array([token_id for _ in of_text for token_id in next(encodings).ids], dtype=np.int32)


def _pieces(text: str) -> list[str]:
    """Cut a long text where a space follows a word: there every tokenizer starts a new word."""
    pieces = []
    start = 0
    while len(text) - start > _PIECE_CHARACTERS:
        end = start + _PIECE_CHARACTERS
        space = text.rfind(" ", start + 1, end)
        while space > start and text[space - 1].isspace():
            space = text.rfind(" ", start + 1, space)
        pieces.append(text[start : space if space > start else end])
        start += len(pieces[-1])
    return [*pieces, text[start:]]


def _document_infos(corpus: Corpus, rows: list[int]) -> list[DocumentInfo]:
    table = corpus.documents.select_columns(["title", "topic"]).select(rows)
    return [DocumentInfo(row["title"], row["topic"]) for row in table]
