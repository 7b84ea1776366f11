"""Import an export: an SAE without weights, with an index like our own of what the export says."""

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Unprocessable
from app.exchange.neuronpedia import records
from app.exchange.neuronpedia.files import FORMAT, Export, R, find, read_batch, read_lines
from app.exchange.neuronpedia.spool import Spool, SpooledFeature
from app.exchange.neuronpedia.statistics import Tokens, active_tokens, example_rows, feature_rows
from app.pipeline.registration import with_progress
from app.queries import corpora, labels, models, runs, saes
from app.queries.models import NO_WEIGHTS
from app.queries.publish import publish_index
from app.queries.saes import SaeDetail
from app.queries.sql.pg_safe import clean_text, storable
from app.runs.context import RunContext
from app.runs.job_context import JobContext
from app.services.labels import MAX_EXPLANATION, MAX_NAME
from sae_core.errors import ModelError
from sae_core.files import explain_full_disk
from sae_core.models import HookPoint
from sae_core.progress import Progress

if TYPE_CHECKING:
    from app.pipeline.import_sae import ImportParams

_READER = 1
"""Part of an index' provenance; raised when the same files come to be read otherwise."""

LICENCE = "not stated by the export"


@dataclass(slots=True)
class About:
    """What the export says of itself, apart from its features."""

    export: str
    sha256: str
    model: str = ""
    source: str = ""
    layers: int = 0
    d_model: int = 0
    hook: str = ""
    d_in: int = 0
    dataset: str = ""
    prompts: int = 0
    prompt_tokens: int = 0
    d_sae: int = 0
    """As far as it goes: one more than the highest number of a feature that is spoken of."""
    notes: str = ""
    released: str = ""
    architecture: str = "not stated"
    tokens_active: int = 0
    density: float = 0.0
    """Sums over all features that have both, from which the number of tokens can be worked out."""
    silent_examples: int = 0
    said: list[str] = field(default_factory=list)
    """What was done as it was read, a sentence each."""

    @property
    def tokens(self) -> Tokens:
        """What the features were counted on."""
        if self.prompts and self.prompt_tokens:
            return Tokens(self.prompts * self.prompt_tokens, True)
        return Tokens(max(10, round(self.tokens_active / self.density)) if self.density else 10, False)


async def import_statistics(run: RunContext, ctx: JobContext, params: "ImportParams") -> dict[str, Any]:
    """Do a run of kind "import" whose format is this one. Importing the same again changes nothing.

    Raises:
        NotFound, Unprocessable: there is no export, or something in it cannot be read; then nothing is stored.
        Conflict: the slug belongs to another SAE.
        ArtifactError: the disk is full.
    """
    root, prefix = ctx.artifacts.root, f".import-{run.run_id}-"
    root.mkdir(parents=True, exist_ok=True)
    for leftover in root.glob(f"{prefix}*"):  # of an attempt that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    with explain_full_disk(root), tempfile.TemporaryDirectory(dir=root, prefix=prefix) as folder:
        spool = Spool(Path(folder))
        try:
            async with run.stage("read") as progress:
                about = await run.in_thread(_read, params, spool, progress)
            async with run.stage("register"), ctx.sessions.begin() as session:
                detail, set_id, ids = await _register(session, run, params, about, spool)
            async with run.stage("publish") as progress:
                number = await _publish(ctx, detail, set_id, ids, about, spool, progress)
                async with ctx.sessions.begin() as session:
                    added = await labels.add_labels(session, detail.id, _labels(spool))
                    await runs.set_sae(session, run.run_id, detail.id)
        finally:
            spool.close()
    return {
        "sae": detail.slug,
        "features": number,
        "format": FORMAT,
        "model": about.model,
        "hook": detail.hook,
        "tokens": about.tokens.number,
        "labels": added,
        "notes": about.said,
    }


# Reading


def _read(params: "ImportParams", spool: Spool, progress: Progress) -> About:
    """Read all files into the spool, checking every record."""
    export = find(params.source)
    about = About(export=Path(params.source).name, sha256=export.sha256())
    _read_about(export, about)
    done, size = sum(path.stat().st_size for path in export.about.values()), export.size
    for path in export.batches:
        progress(done, size)
        batch = read_batch(export, path)
        where = export.named(path)
        _same_sae(about, batch.model_id, batch.source, where)
        for feature in batch.features:
            _take_feature(feature, about, spool, f"{where}, feature {feature.index}")
        done += path.stat().st_size
    for kind, path in export.lines:

        def report(read: int, done: int = done, path: Path = path) -> None:
            progress(done + min(read, path.stat().st_size), size)

        if kind == "features":
            _take_lines(export, path, records.Feature, partial(_feature_line, about, spool), report)
        elif kind == "activations":
            _take_lines(export, path, records.Activation, partial(_activation_line, about, spool), report)
        else:
            _take_lines(export, path, records.Explanation, partial(_explanation_line, spool), report)
        done += path.stat().st_size
    spool.finish()
    progress(size, size)
    _conclude(params, about, spool)
    return about


def _take_lines(
    export: Export, path: Path, kind: type[R], take: Callable[[R, str], None], report: Callable[[int], None]
) -> None:
    for number, (record, where, read) in enumerate(read_lines(export, path, kind)):
        if number % 256 == 0:
            report(read)
        take(record, where)


def _read_about(export: Export, about: About) -> None:
    """What the files beside the features say."""

    def first(name: str, kind: type[R]) -> R | None:
        path = export.about.get(name)
        return next((record for record, _, _ in read_lines(export, path, kind)), None) if path else None

    if (source := first("source", records.Source)) is not None:
        about.source, about.model, about.dataset = source.id, source.model, source.dataset
        about.prompts, about.prompt_tokens, about.notes = source.prompts, source.prompt_tokens, source.notes
        about.released = "/".join(filter(None, (source.repository, source.folder)))
        about.hook = _text(source.config.get("hook_name"))
        about.architecture = _text(source.config.get("architecture")) or about.architecture
        width = source.config.get("d_sae")
        about.d_sae = width if isinstance(width, int) and 0 < width <= records.MAX_FEATURE + 1 else 0
    if (model := first("model", records.Model)) is not None:
        about.model, about.layers, about.d_model = about.model or model.id, model.layers, model.dimension
    if (release := first("release", records.Release)) is not None:
        about.released = about.released or ", ".join(filter(None, (release.creator, *release.urls)))
    if (skipped := first("skipped_indexes", records.Skipped)) is not None and skipped.skipped_indexes:
        about.d_sae = max(about.d_sae, 1 + max(skipped.skipped_indexes))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _same_sae(about: About, model: str | None, source: str | None, where: str) -> None:
    """Take over the names of model and SAE, which are the same all over an export."""
    for name, stated in (("model", model), ("source", source)):
        known = getattr(about, name)
        if stated and known and stated != known:
            raise Unprocessable(
                f"{where}: it is of {stated}, and what came before of {known}. Import one SAE at a time, from a folder "
                "of its own."
            )
        if stated:
            setattr(about, name, stated)


def _feature_line(about: About, spool: Spool, feature: records.Feature, where: str) -> None:
    _same_sae(about, feature.model, feature.source, where)
    _take_feature(feature, about, spool, where)


def _take_feature(feature: records.Feature, about: About, spool: Spool, where: str) -> None:
    heights = [round(height) for height in feature.heights]
    taken = SpooledFeature(
        number=feature.index,
        density=feature.density,
        maximum=max(0.0, feature.maximum or 0.0),
        heights=heights,
        middles=feature.middles,
        promoted=spool.tokens(feature.pos_str),
        promoted_logits=feature.pos_values,
        suppressed=spool.tokens(feature.neg_str),
        suppressed_logits=feature.neg_values,
        near=feature.near,
        near_cosine=feature.near_cosine,
    )
    spool.add_feature(taken, where)
    about.d_sae = max(about.d_sae, feature.index + 1)
    about.hook = about.hook or feature.hook or ""
    about.d_in = about.d_in or len(feature.vector)
    about.dataset = about.dataset or feature.dataset
    if not about.prompts:
        about.prompts, about.prompt_tokens = feature.prompts, feature.prompt_tokens
    if feature.density and (active := active_tokens(taken, (), None)):
        about.tokens_active += active
        about.density += feature.density
    for activation in feature.activations:
        about.silent_examples += not spool.add_example(feature.index, activation)


def _activation_line(about: About, spool: Spool, activation: records.Activation, where: str) -> None:
    _same_sae(about, activation.model, activation.source, where)
    if activation.index is None:
        raise Unprocessable(f"{where}: index: it does not say of which feature it is.")
    about.silent_examples += not spool.add_example(activation.index, activation)


def _explanation_line(spool: Spool, explanation: records.Explanation, _where: str) -> None:
    text = clean_text(explanation.description).strip()
    if text:
        spool.add_explanation(explanation.index, clean_text(explanation.author), text)


def _conclude(params: "ImportParams", about: About, spool: Spool) -> None:
    """Check what was read as a whole, and say what was done with it."""
    if not spool.numbers():
        raise Unprocessable(f"{about.export} describes no feature.")
    if params.model is not None:
        about.model = params.model
    if not about.model:
        raise Unprocessable("The export does not say which model it is of. Say it: --model.")
    if params.hook is not None:
        about.hook = params.hook
    if not all(storable(text) for text in (about.model, about.source, about.dataset, about.hook)):
        raise Unprocessable("The names of the model and the SAE hold NUL or broken characters.")
    if about.silent_examples:
        about.said.append(
            f"{about.silent_examples:,} examples were left out: the feature is not active on the token they are for."
        )
    if strays := spool.strays():
        about.said.append(f"{strays:,} examples and explanations were left out: of features that it does not describe.")
    if not about.tokens.stated:
        about.said.append(
            f"It does not say how many tokens were counted: about {about.tokens.number:,}, by densities and histograms."
        )


# Keeping


async def _register(
    session: AsyncSession, run: RunContext, params: "ImportParams", about: About, spool: Spool
) -> tuple[SaeDetail, int, list[int]]:
    """The rows of model, texts and SAE, in one transaction; the SAE, its sequence set and the ids of the tokens."""
    slug = params.name or _slug(about)
    model, ids = await models.register_without_weights(
        session,
        name=f"{about.model} (no weights)",
        source="exports of its SAEs",
        n_layers=about.layers,
        d_model=about.d_model,
        tokens=[_bytes(token) for token in spool.vocabulary],
    )
    detail = await saes.register_sae(
        session,
        slug=slug,
        model_id=model.id,
        hook=_hook(about),
        hook_out=params.hook_out,
        architecture=about.architecture,
        d_in=about.d_in,
        d_sae=about.d_sae,
        k=None,
        artifact="",
        weights_sha256=f"{NO_WEIGHTS}, of export {about.sha256}",
        config={"imported": _imported(about, spool), "run": run.run_id},
        metrics={},
        created_by=run.created_by,
    )
    corpus = await corpora.register_corpus(
        session,
        slug=slug,
        title=about.dataset or f"the text of {about.export}",
        source=about.dataset or about.export,
        licence=LICENCE,
        attribution=about.notes or f"As in the examples of the export {about.export}.",
        sha256=about.sha256,
        documents=0,
    )
    sequences = spool.sequences(ids)
    registered = await corpora.register_sequences(
        session,
        corpus_id=corpus.id,
        model_id=model.id,
        length=spool.longest,
        tokens=about.tokens.number,
        sha256=about.sha256,
        documents=[],
        sequences=sequences,
    )
    return detail, registered.id, ids


def _slug(about: About) -> str:
    """`gpt2-small-9-res-jb`, or of an export that names no SAE the model's name and the file's."""
    named = f"{about.model}-{about.source or about.export.partition('.')[0]}"
    slug = re.sub(r"[^a-z0-9._-]+", "-", named.lower()).strip("._-")[:100]
    if not slug:
        raise Unprocessable("No name can be made of the export's own. Give it one: --name.")
    return slug


def _hook(about: About) -> str:
    """The hook point as we write it, or whatever the export says of where it is."""
    try:
        return str(HookPoint.parse(about.hook))
    except ModelError:
        return about.hook or about.source or "not stated"


def _bytes(token: str) -> bytes:
    """A token as it is stored; the parser has let no half of a surrogate pair through."""
    return token.encode()


def _imported(about: About, spool: Spool) -> dict[str, Any]:
    """What is kept with the SAE of where it comes from, and what the pages then say is lacking."""
    numbers = spool.numbers()
    near = any(feature.near for feature in spool.features())
    lacks = {
        "weights": True,
        "hook": not about.hook,
        "features": len(numbers) < about.d_sae,
        "tokens": not about.tokens.stated,
        "near": not near,
    }
    return {
        "source": about.export,
        "released": about.released,
        "format": FORMAT,
        "sha256": about.sha256,
        "model": about.model,
        "sae": about.source,
        "features": len(numbers),
        "notes": about.said,
        "lacks": [name for name, lacking in lacks.items() if lacking],
    }


async def _publish(
    ctx: JobContext, detail: SaeDetail, set_id: int, ids: list[int], about: About, spool: Spool, progress: Progress
) -> int:
    """Publish the index; how many features it has."""
    numbers = spool.numbers()
    await publish_index(
        ctx.engine,
        sae_id=detail.id,
        sequence_set_id=set_id,
        tokens=about.tokens.number,
        topics=(),
        provenance={
            "export": about.sha256,
            "reader": _READER,
            "features": len(numbers),
            "counted_by": FORMAT,
            "not_counted": "what the export left out, which it does not say",
        },
        features=with_progress(feature_rows(spool, spool.sequences(ids), ids, about.tokens), len(numbers), progress),
        examples=example_rows(spool),
    )
    return len(numbers)


def _labels(spool: Spool) -> Iterator[tuple[int, str, str]]:
    """Labels of the explanations, cut to what a label may hold."""
    for feature, author, explanation in spool.explanations():
        yield feature, author[:MAX_NAME], explanation[:MAX_EXPLANATION]
