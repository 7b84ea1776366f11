"""Readings of text sets: made where they are missing, found where they are not.

Comparisons, monitors and audits read sets through `TextReader`. The model is loaded only if a set was not read before.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from app.artifacts import reading_key
from app.errors import Conflict
from app.pipeline.identities import model_source
from app.pipeline.registered import load_registered, registered_sae
from app.pipeline.sources import fetch_packages, read_model
from app.pipeline.stages import READING
from app.queries import runs, text_readings
from app.queries.saes import SaeDetail
from app.queries.text_readings import NewReading
from app.queries.text_sets import TextItem, TextSetView, list_texts
from app.runs.context import RunContext
from app.runs.job_context import JobContext
from app.services.text_sets import find_text_set
from app.storage import removal
from sae_core.models import HookPoint, LanguageModel
from sae_core.readings import Reading, Text, load_reading, pool_features, read_texts
from sae_core.saes import SAE


@dataclass(frozen=True)
class SetReading:
    """A text set as an SAE reads it; text `i` of `texts` is text `i` of `reading`."""

    view: TextSetView
    texts: Sequence[TextItem]
    reading: Reading
    note: str
    """A remark on the reading, such as that chats were read as plain texts; or empty."""


class TextReader:
    """Reads text sets with one SAE, for a run with the stages `READING`."""

    def __init__(self, run: RunContext, ctx: JobContext, detail: SaeDetail, max_tokens: int) -> None:
        self.detail = detail
        self._run = run
        self._ctx = ctx
        self._max_tokens = max_tokens
        self._loaded: tuple[LanguageModel, SAE] | None = None

    @classmethod
    async def open(cls, run: RunContext, ctx: JobContext, slug: str, *, max_tokens: int) -> "TextReader":
        """Return a reader with a registered SAE, and note the SAE in the run's row; nothing is loaded yet.

        Raises:
            NotFound: there is no such SAE.
            NoWeights: it was imported without any.
        """
        detail = await registered_sae(ctx, slug)
        async with ctx.sessions.begin() as session:
            await runs.set_sae(session, run.run_id, detail.id)
        return cls(run, ctx, detail, max_tokens)

    async def read(self, name: str) -> SetReading:
        """Return the reading of a text set: the one that is there, or a new one, which is kept.

        Raises:
            NotFound: there is no such set.
            Conflict: the model at its source is no longer the one that the SAE was trained on.
            ArtifactError: the disk is full, or what was read before is damaged.
        """
        async with self._ctx.sessions() as session:
            view = await find_text_set(session, name)
            texts = await list_texts(session, view.id)
            known = await text_readings.get_reading(session, self.detail.id, view.id, self._max_tokens)
        key = reading_key(self.detail, view.hash, self._max_tokens)
        folder = self._ctx.artifacts.reading(key)
        with self._run.about(name, READING[-1:]):
            async with self._run.lock("read", folder, "this reading"):
                if known is not None and known.key == key and folder.is_dir():
                    for stage in ("fetch", "load"):
                        async with self._run.stage(stage):
                            pass
                    async with self._run.stage("read") as progress:
                        reading = await self._run.in_thread(load_reading, folder)
                        progress(reading.tokens, reading.tokens)
                    removal.touch(folder)
                    return SetReading(view, texts, reading, known.note)
                model, sae = await self.load()
                readable, note = as_read(model, texts)
                async with self._run.stage("read") as progress:
                    reading = await self._run.in_thread(
                        read_texts,
                        model,
                        sae,
                        readable,
                        hook=HookPoint.parse(self.detail.hook),
                        folder=folder,
                        max_tokens=self._max_tokens,
                        progress=progress,
                    )
                    await self._publish(view, key, reading, note)
        return SetReading(view, texts, reading, note)

    async def load(self) -> tuple[LanguageModel, SAE]:
        """Return the model and the SAE, in the form for inference on its device; they are loaded once.

        Raises:
            Conflict: the model at its source is no longer the one that the SAE was trained on.
            CheckpointError, ModelError: they cannot be loaded.
        """
        if self._loaded is None:
            self._loaded = await self._load()
        return self._loaded

    async def _load(self) -> tuple[LanguageModel, SAE]:
        run, ctx, detail = self._run, self._ctx, self.detail
        source, cache = model_source(detail.model), ctx.settings.home / "cache"
        async with run.stage("fetch") as progress:
            await run.in_thread(fetch_packages, source, None, cache, progress)
        async with run.stage("load"):
            with run.waiting("load", "its weights") as waiting:
                load = partial(read_model, device=ctx.settings.device, cache=cache, converted=ctx.artifacts.models)
                model = await run.in_thread(load, source, waiting=waiting)
            hashes = (model.weights_sha256, model.tokenizer_sha256)
            if hashes != (detail.model.weights_sha256, detail.model.tokenizer_sha256):
                raise Conflict(
                    f"The model at {model.source} is no longer the one that {detail.slug} was trained on: its weights "
                    "or its tokenizer changed. Put the former files back, or train an SAE on the new ones."
                )
            async with ctx.sessions.begin() as session:
                await runs.note_use(session, run.run_id, f"model {detail.model.id}")
            model.name = detail.model.name
            sae = await run.in_thread(load_registered, ctx, detail)
        return model, sae.for_inference().to(model.device)

    async def _publish(self, view: TextSetView, key: str, reading: Reading, note: str) -> None:
        new = NewReading(
            sae_id=self.detail.id,
            set_id=view.id,
            max_tokens=self._max_tokens,
            key=key,
            set_hash=view.hash,
            texts=reading.texts,
            tokens=reading.tokens,
            truncated=int(reading.truncated.sum()),
            note=note,
            run_id=self._run.run_id,
        )
        rows = await self._run.in_thread(lambda: list(_rows(reading)))
        async with self._ctx.sessions.begin() as session:
            await text_readings.put_reading(session, new, rows)


def as_read(model: LanguageModel, texts: Sequence[TextItem]) -> tuple[list[Text], str]:
    """Return the texts and chats to read, and what has to be said of it."""
    if all(item.chat is None for item in texts) or model.has_chat_format:
        return [item.text if item.chat is None else item.chat for item in texts], ""
    plain: list[Text] = [item.text if item.chat is None else words_of_chat(item.chat) for item in texts]
    return plain, f"{model.name} has no chat format, so chats were read as plain texts."


def words_of_chat(chat: Sequence[Mapping[str, str]]) -> str:
    """Return a chat as a plain text, which is how a model without a chat format reads it, here and in a scan."""
    return "\n".join(turn["content"] for turn in chat)


def _rows(reading: Reading) -> Iterator[tuple[int, list[int], list[float]]]:
    """Yield each active feature with the texts on which it is, and its largest activation there."""
    pooled = pool_features(reading, "max").tocsc()
    pooled.sort_indices()
    for feature in np.flatnonzero(np.diff(pooled.indptr)).tolist():
        own = slice(pooled.indptr[feature], pooled.indptr[feature + 1])
        yield feature, pooled.indices[own].tolist(), pooled.data[own].tolist()
