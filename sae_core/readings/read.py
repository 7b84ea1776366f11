"""Run texts through a model, stopped at the hook, and an SAE."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8
from scipy import sparse
from torch import Tensor

from sae_core.models import HookPoint, LanguageModel
from sae_core.models.chat import RenderedChat
from sae_core.progress import Progress, silent
from sae_core.readings.reading import RESIDUAL_POOLS, Part, Reading, join_readings, load_shard, save_reading
from sae_core.saes import SAE

Text = str | Sequence[Mapping[str, str]]
"""A text, or the turns of a chat."""

SHARD_TOKENS = 16_384
"""Tokens after which what was read is written to disk: an interruption loses the work on as many."""
BATCH_TOKENS = 4_096
"""Tokens of a forward pass, with padding."""
_BLOCK = 128
"""Tokens encoded at a time: dense activations of 128 tokens and 65,536 features are 32 MB."""
_ROLES = {"system": Part.SYSTEM, "user": Part.USER, "assistant": Part.ASSISTANT}


@dataclass(frozen=True)
class TextTokens:
    """A text as the model reads it, with its prefix."""

    ids: list[int]
    parts: UInt8[np.ndarray, " position"]
    counted: Bool[np.ndarray, " position"]
    truncated: bool


def read_texts(
    model: LanguageModel,
    sae: SAE,
    texts: Sequence[Text],
    *,
    hook: HookPoint,
    folder: Path | None = None,
    max_tokens: int = 512,
    progress: Progress = silent,
) -> Reading:
    """Return what the model and the SAE make of texts.

    Every text stands behind the prefix that a probe puts in front; a chat is read in the model's own format. Tokens
    beyond `max_tokens`, or beyond the model's context, are left out, and the text is marked as truncated.

    Args:
        model: the model.
        sae: in the form for inference, on the model's device.
        texts: at least one.
        hook: point that the SAE reads.
        folder: where what was read is kept, shard by shard; the same call continues from what is there. The folder is
            of these texts, this model and this SAE alone: name it by their hashes.
        max_tokens: per text, without the prefix.
        progress: in tokens.

    Raises:
        ChatError: the model has no chat format, or it refuses one of the chats.
        ModelError: the model has no such hook point, or no row for a token.
        ArtifactError: the disk is full, or a shard is damaged.
    """
    tokenized = [tokenize_text(model, text, prepend_bos=sae.prepend_bos, max_tokens=max_tokens) for text in texts]
    total = sum(len(text.ids) for text in tokenized)
    shards: list[Reading] = []
    done = 0
    progress(0, total)
    for number, shard in enumerate(_shards(tokenized)):
        path = None if folder is None else folder / f"shard-{number:05}.npz"
        if path is not None and path.exists():
            reading = load_shard(path)
        else:
            reading = _read_shard(model, sae, hook, shard, _offset(progress, done, total))
            if path is not None:
                save_reading(reading, path)
        shards.append(reading)
        done += sum(len(text.ids) for text in shard)
        progress(done, total)
    return join_readings(shards)


def tokenize_text(model: LanguageModel, text: Text, *, prepend_bos: bool, max_tokens: int) -> TextTokens:
    """Return the tokens of a text or chat behind its prefix, at most `max_tokens` of its own."""
    rendered = RenderedChat(text, ()) if isinstance(text, str) else model.render_chat(text)
    ids = model.tokenize(rendered.text, prepend_bos=prepend_bos)
    parts = np.full(len(ids), Part.TEXT, np.uint8)
    if rendered.tokens:
        own = [Part.TEMPLATE if token.added else _ROLES.get(token.role or "", Part.TEXT) for token in rendered.tokens]
        parts[:] = ([Part.TEMPLATE] * (len(ids) - len(own)) + own)[-len(ids) :]
    uncounted = model.special_token_ids | {model.bos_token_id}
    counted = np.array([token not in uncounted for token in ids], bool)
    prefix = int(bool(ids) and ids[0] == model.bos_token_id)
    limit = prefix + min(max_tokens, (model.context_length or max_tokens + 1) - 1)
    return TextTokens(ids[:limit], parts[:limit], counted[:limit], truncated=len(ids) > limit)


def _offset(progress: Progress, before: int, total: int) -> Progress:
    """Report a part of a work of `total` units that begins after `before`."""
    return lambda done, _of, _metrics=None, /: progress(before + done, total)


def _shards(texts: Sequence[TextTokens]) -> Iterator[list[TextTokens]]:
    """Yield the texts in order, in shards that end where `SHARD_TOKENS` are reached."""
    shard: list[TextTokens] = []
    size = 0
    for text in texts:
        shard.append(text)
        size += len(text.ids)
        if size >= SHARD_TOKENS:
            yield shard
            shard, size = [], 0
    if shard:
        yield shard


def _read_shard(
    model: LanguageModel, sae: SAE, hook: HookPoint, texts: Sequence[TextTokens], progress: Progress
) -> Reading:
    """Return the reading of some texts; texts of about one length share a forward pass."""
    found: list[tuple[sparse.csr_array, dict[str, Float32[np.ndarray, " d_in"]]]] = [
        (sparse.csr_array((0, sae.d_sae), dtype=np.float32), _pooled(torch.zeros((0, sae.d_in)), np.zeros(0, np.uint8)))
    ] * len(texts)
    done, total = 0, sum(len(text.ids) for text in texts)
    for batch in batches_by_length([len(text.ids) for text in texts]):
        ids = torch.zeros((len(batch), max(len(texts[row].ids) for row in batch)), dtype=torch.long)
        for place, row in enumerate(batch):
            ids[place, : len(texts[row].ids)] = torch.tensor(texts[row].ids)
        activations = model.activations(ids, hook)
        for place, row in enumerate(batch):
            text = texts[row]
            x = activations[place, : len(text.ids)][torch.from_numpy(text.counted).to(activations.device)]
            found[row] = encode_tokens(sae, x), _pooled(x.cpu(), text.parts[text.counted])
            done += len(text.ids)
        progress(done, total)
    counts = [int(text.counted.sum()) for text in texts]
    return Reading(
        offsets=np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]),
        token_ids=np.concatenate([np.array(text.ids, np.int32)[text.counted] for text in texts]),
        parts=np.concatenate([text.parts[text.counted] for text in texts]),
        features=sparse.csr_array(sparse.vstack([features for features, _ in found], format="csr")),
        residual={pool: np.stack([pooled[pool] for _, pooled in found]) for pool in RESIDUAL_POOLS},
        truncated=np.array([text.truncated for text in texts]),
    )


def batches_by_length(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield texts that are not empty, longest first, in batches of at most `BATCH_TOKENS` with padding."""
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if batch and lengths[batch[0]] * (len(batch) + 1) > BATCH_TOKENS:
            yield batch
            batch = []
        if lengths[row]:
            batch.append(row)
    if batch:
        yield batch


@torch.inference_mode()
def encode_tokens(sae: SAE, x: Float[Tensor, "token d_in"]) -> sparse.csr_array:
    """Return the feature activations of tokens that are not 0, float32 `[token, d_sae]`, as numpy has them."""
    rows, features, values = [], [], []
    for start in range(0, len(x), _BLOCK):
        active, activations = sae.encode_sparse(x[start : start + _BLOCK].to(sae.W_dec.device))
        rows.append(active.rows.cpu().numpy() + start)
        features.append(active.features.cpu().numpy())
        values.append(activations.float().cpu().numpy())
    if not rows:
        return sparse.csr_array((0, sae.d_sae), dtype=np.float32)
    entries = np.concatenate(values), (np.concatenate(rows), np.concatenate(features))
    matrix = sparse.csr_array(sparse.coo_array(entries, shape=(len(x), sae.d_sae)))
    matrix.sort_indices()
    return matrix


def _pooled(
    x: Float[Tensor, "token d_in"], parts: UInt8[np.ndarray, " token"]
) -> dict[str, Float32[np.ndarray, " d_in"]]:
    """Return the activations of a text's counted tokens, pooled; zeros where there are none."""
    rows = x.numpy()
    nothing = np.zeros(x.shape[1], np.float32)
    found = {"last": rows[-1] if len(rows) else nothing}
    chosen = {"": parts != Part.TEMPLATE, "user-": parts == Part.USER, "assistant-": parts == Part.ASSISTANT}
    for name, own in chosen.items():
        some = own.any()
        found[f"{name}mean"] = rows[own].mean(axis=0, dtype=np.float64).astype(np.float32) if some else nothing
        found[f"{name}max"] = rows[own].max(axis=0) if some else nothing
    return found
