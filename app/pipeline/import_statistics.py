"""Import an export of SAEDashboard or Neuronpedia: an SAE without weights, and an index of its statistics."""

import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Conflict, Unprocessable
from app.exchange.neuronpedia.files import FORMAT
from app.exchange.neuronpedia.reading import ExportInfo, read_export
from app.exchange.neuronpedia.spool import Spool
from app.exchange.neuronpedia.statistics import example_rows, feature_rows
from app.pipeline.registered import find_sae
from app.pipeline.registration import with_progress
from app.queries import corpora, labels, models, runs, saes
from app.queries.label_sets import ensure_set
from app.queries.models import NO_WEIGHTS
from app.queries.publish import publish_index
from app.queries.saes import SaeDetail
from app.queries.suggestions import add_suggestions
from app.runs.context import RunContext
from app.runs.job_context import JobContext
from app.services.labels import MAX_EXPLANATION, MAX_NAME
from sae_core.errors import ModelError
from sae_core.files import explain_full_disk
from sae_core.models import HookPoint
from sae_core.progress import Progress

_MAX_MODEL = 200
"""Characters of method and model of a machine's explanation."""

if TYPE_CHECKING:
    from app.pipeline.import_sae import ImportParams

_READER = 1
"""Part of an index' provenance; raised when a change makes the same files read differently."""

LICENCE = "not stated by the export"


async def import_statistics(run: RunContext, ctx: JobContext, params: "ImportParams") -> dict[str, Any]:
    """Run an import of this format. Importing the same export again changes nothing.

    Raises:
        NotFound, Unprocessable: there is no export, or something in it cannot be read; then nothing is stored.
        Conflict: the slug belongs to another SAE.
        ArtifactError: the disk is full.
    """
    if params.name is not None:
        known = await find_sae(ctx, params.name)
        if known is not None and known.has_weights:
            raise Conflict(f"There is another SAE named {params.name}, with weights. Give this one another `name`.")
    root, prefix = ctx.artifacts.root, f".import-{run.run_id}-"
    root.mkdir(parents=True, exist_ok=True)
    for leftover in root.glob(f"{prefix}*"):  # from an attempt that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    with explain_full_disk(root), tempfile.TemporaryDirectory(dir=root, prefix=prefix) as folder:
        spool = Spool(Path(folder))
        try:
            async with run.stage("read") as progress:
                info = await run.in_thread(
                    read_export, params.source, spool, progress, model=params.model, hook=params.hook
                )
            async with run.stage("register"), ctx.sessions.begin() as session:
                detail, set_id, ids = await _register(session, run, params, info, spool)
            async with run.stage("publish") as progress:
                number = await _publish(ctx, detail, set_id, ids, info, spool, progress)
                async with ctx.sessions.begin() as session:
                    of_set = await ensure_set(session, detail.id)
                    added = await labels.add_labels(session, detail.id, of_set.id, _labels(spool))
                    indexed = await saes.get_sae(session, detail.slug) or detail
                    suggested = await add_suggestions(session, indexed, _suggestions(spool), run_id=run.run_id)
                    await runs.set_sae(session, run.run_id, detail.id)
        finally:
            spool.close()
    return {
        "sae": detail.slug,
        "features": number,
        "format": FORMAT,
        "model": info.name.model,
        "hook": detail.hook,
        "tokens": info.tokens.number,
        "labels": added,
        "suggestions": suggested,
        "notes": list(info.remarks),
    }


async def _register(
    session: AsyncSession, run: RunContext, params: "ImportParams", info: ExportInfo, spool: Spool
) -> tuple[SaeDetail, int, list[int]]:
    """Register model, text and SAE in one transaction; return the SAE, its sequence set's id and the tokens' ids."""
    slug = params.name or _slug(info)
    model, ids = await models.register_without_weights(
        session,
        name=f"{params.model_name or info.name.model} (no weights)",
        source="exports of its SAEs",
        n_layers=info.model.layers,
        d_model=info.model.d_model,
        tokens=[_bytes(token) for token in spool.vocabulary],
    )
    detail = await saes.register_sae(
        session,
        saes.SaeRow(
            slug=slug,
            model_id=model.id,
            hook=_hook(info),
            hook_out=params.hook_out,
            architecture=info.architecture,
            d_in=info.d_in,
            d_sae=info.d_sae,
            k=None,
            artifact="",
            weights_sha256=f"{NO_WEIGHTS}, of export {info.sha256}",
            config={"imported": _imported(info, spool), "run": run.run_id},
            metrics={},
            created_by=run.created_by,
        ),
    )
    corpus = await corpora.register_corpus(
        session,
        corpora.CorpusRow(
            slug=slug,
            title=info.dataset.name or f"the text of {info.file}",
            source=info.dataset.name or info.file,
            licence=LICENCE,
            attribution=info.notes or f"As in the examples of the export {info.file}.",
            sha256=info.sha256,
            documents=0,
        ),
    )
    sequences = spool.sequences(ids)
    registered = await corpora.register_sequences(
        session,
        corpora.SequenceSetRow(
            corpus_id=corpus.id, model_id=model.id, length=spool.longest, tokens=info.tokens.number, sha256=info.sha256
        ),
        documents=[],
        sequences=sequences,
    )
    await runs.note_use(session, run.run_id, f"sae {detail.id}", f"model {model.id}", f"corpus {corpus.id}")
    return detail, registered.id, ids


def _slug(info: ExportInfo) -> str:
    """Return a slug such as `gpt2-small-9-res-jb`; if the export names no SAE, the file's name completes it."""
    named = f"{info.name.model}-{info.name.source or info.file.partition('.')[0]}"
    slug = re.sub(r"[^a-z0-9._-]+", "-", named.lower()).strip("._-")[:100]
    if not slug:
        raise Unprocessable("No name can be made of the export's own. Give it a `name`.")
    return slug


def _hook(info: ExportInfo) -> str:
    """Return the hook point in our notation, or the export's own words if they cannot be parsed."""
    try:
        return str(HookPoint.parse(info.hook))
    except ModelError:
        return info.hook or info.name.source or "not stated"


def _bytes(token: str) -> bytes:
    """Encode a token for storage; the parser has rejected lone surrogates."""
    return token.encode()


def _imported(info: ExportInfo, spool: Spool) -> dict[str, Any]:
    """Return the origin that is stored with the SAE, with the list of missing things that its pages show."""
    numbers = spool.numbers()
    near = any(feature.near for feature in spool.features())
    lacks = {
        "weights": True,
        "hook": not info.hook,
        "features": len(numbers) < info.d_sae,
        "tokens": not info.tokens.stated,
        "near": not near,
    }
    return {
        "source": info.file,
        "released": info.released,
        "format": FORMAT,
        "sha256": info.sha256,
        "model": info.name.model,
        "sae": info.name.source,
        "features": len(numbers),
        "notes": list(info.remarks),
        "lacks": [name for name, lacking in lacks.items() if lacking],
    }


async def _publish(
    ctx: JobContext, detail: SaeDetail, set_id: int, ids: list[int], info: ExportInfo, spool: Spool, progress: Progress
) -> int:
    """Publish the index, and return its number of features."""
    numbers = spool.numbers()
    await publish_index(
        ctx.engine,
        sae_id=detail.id,
        sequence_set_id=set_id,
        tokens=info.tokens.number,
        topics=(),
        provenance={
            "export": info.sha256,
            "reader": _READER,
            "features": len(numbers),
            "counted_by": FORMAT,
            "not_counted": "what the export left out, which it does not say",
        },
        features=with_progress(feature_rows(spool, spool.sequences(ids), ids, info.tokens), len(numbers), progress),
        examples=example_rows(spool),
    )
    return len(numbers)


def _labels(spool: Spool) -> Iterator[tuple[int, str, str]]:
    """Yield people's explanations as labels, cut to the length limits of a label."""
    for feature, author, explanation in spool.explanations(is_machine=False):
        yield feature, author[:MAX_NAME], explanation[:MAX_EXPLANATION]


def _suggestions(spool: Spool) -> Iterator[tuple[int, str, str]]:
    """Yield machines' explanations as suggestions, which never count as people's labels."""
    for feature, model, explanation in spool.explanations(is_machine=True):
        yield feature, model[:_MAX_MODEL], explanation[:MAX_EXPLANATION]
