"""Read an export: its features, examples and explanations into a spool, the rest into frozen records."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from app.errors import Unprocessable
from app.exchange.neuronpedia import records
from app.exchange.neuronpedia.files import Export, Kind, R, find, read_batch, read_lines
from app.exchange.neuronpedia.spool import Spool, SpooledFeature
from app.exchange.neuronpedia.statistics import Tokens, active_tokens
from app.queries.sql.pg_safe import clean_text, storable
from sae_core.progress import Progress

_RECORDS: dict[Kind, type[records.Record]] = {
    "features": records.Feature,
    "activations": records.Activation,
    "explanations": records.Explanation,
}
_REPORT_EVERY = 256
"""Lines between two reports of progress."""
_LEAST_TOKENS = 10
"""Assumed if neither a number of tokens nor a density is stated."""


@dataclass(frozen=True, slots=True)
class SaeName:
    """The names of an SAE and its model; "" if none is stated."""

    model: str = ""
    source: str = ""

    def agreed(self, model: str | None, source: str | None, where: str) -> "SaeName":
        """Return this name, completed by the names in one record.

        Raises:
            Unprocessable: the record belongs to another SAE.
        """
        for stated, known in ((model, self.model), (source, self.source)):
            if stated and known and stated != known:
                raise Unprocessable(
                    f"{where}: it is of {stated}, and what came before of {known}. Import one SAE at a time, from a "
                    "folder of its own."
                )
        if self.model and self.source:
            return self
        return SaeName(self.model or model or "", self.source or source or "")


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Shape of the language model; 0 if it is not stated."""

    layers: int = 0
    d_model: int = 0


@dataclass(frozen=True, slots=True)
class Dataset:
    """The text that the features were counted on; "" and 0 if it is not stated."""

    name: str = ""
    prompts: int = 0
    prompt_tokens: int = 0

    def or_else(self, other: "Dataset") -> "Dataset":
        """Return this data set, completed by `other`."""
        prompts = self if self.prompts else other
        return Dataset(self.name or other.name, prompts.prompts, prompts.prompt_tokens)


@dataclass(frozen=True, slots=True)
class Release:
    """The statements of the files beside the features."""

    name: SaeName
    model: ModelShape
    dataset: Dataset
    hook: str
    architecture: str
    d_sae: int
    """0 if neither a width nor a skipped feature is stated."""
    released: str
    """Repository and folder, or creator and URLs."""
    notes: str


@dataclass(frozen=True, slots=True)
class FeatureTotals:
    """Sums over the features, and for each shared property the first statement of it."""

    d_sae: int = 0
    """One more than the highest number."""
    hook: str = ""
    d_in: int = 0
    dataset: Dataset = Dataset()
    active_tokens: int = 0
    density: float = 0.0
    """Sums over the features that have both; their quotient is the number of tokens."""

    def plus(self, other: "FeatureTotals") -> "FeatureTotals":
        """Return the totals of both; the statements of `self` come first."""
        return FeatureTotals(
            d_sae=max(self.d_sae, other.d_sae),
            hook=self.hook or other.hook,
            d_in=self.d_in or other.d_in,
            dataset=self.dataset.or_else(other.dataset),
            active_tokens=self.active_tokens + other.active_tokens,
            density=self.density + other.density,
        )


@dataclass(frozen=True, slots=True)
class ExportInfo:
    """An export without its features."""

    file: str
    sha256: str
    name: SaeName
    model: ModelShape
    dataset: Dataset
    tokens: Tokens
    hook: str
    architecture: str
    d_in: int
    d_sae: int
    """The stated width, or one more than the highest feature that the export names."""
    released: str
    notes: str
    remarks: tuple[str, ...]
    """Sentences about what was left out or estimated."""


def read_export(source: str, spool: Spool, progress: Progress, *, model: str | None, hook: str | None) -> ExportInfo:
    """Read all files of an export into `spool`, checking every record.

    Args:
        source: path of the export.
        model: replaces the model's name that the export states.
        hook: replaces the hook point that the export states.

    Raises:
        NotFound, Unprocessable: there is no export, or it cannot be read.
    """
    export = find(source)
    sha256 = export.sha256()
    release = _read_release(export)
    name, totals, left_out = release.name, FeatureTotals(), 0
    done, size = sum(path.stat().st_size for path in export.about.values()), export.size
    for path in export.batches:
        progress(done, size)
        batch = read_batch(export, path)
        file = export.named(path)
        name = name.agreed(batch.model_id, batch.source, file)
        for feature in batch.features:
            totals = totals.plus(_spool_feature(spool, feature, f"{file}, feature {feature.index}"))
            left_out += _spool_examples(spool, feature.index, feature.activations)
        done += path.stat().st_size
    for kind, path in export.lines:
        for number, (record, where, read) in enumerate(read_lines(export, path, _RECORDS[kind])):
            if number % _REPORT_EVERY == 0:
                progress(done + min(read, path.stat().st_size), size)
            match record:
                case records.Feature():
                    name = name.agreed(record.model, record.source, where)
                    totals = totals.plus(_spool_feature(spool, record, where))
                    left_out += _spool_examples(spool, record.index, record.activations)
                case records.Activation():
                    name = name.agreed(record.model, record.source, where)
                    left_out += _spool_examples(spool, _feature_of(record, where), [record])
                case records.Explanation():
                    _spool_explanation(spool, record)
        done += path.stat().st_size
    spool.finish()
    progress(size, size)
    file = Path(source).name
    if not spool.numbers():
        raise Unprocessable(f"{file} describes no feature.")
    info = _info(file, sha256, name, release, totals)
    if model is not None:
        info = replace(info, name=replace(name, model=model))
    if hook is not None:
        info = replace(info, hook=hook)
    _check_names(info)
    return replace(info, remarks=tuple(_remarks(info.tokens, left_out, spool.count_strays())))


def _read_release(export: Export) -> Release:
    """Read the files beside the features, as far as they exist."""
    source = _first(export, "source", records.Source) or records.Source()
    model = _first(export, "model", records.Model) or records.Model()
    release = _first(export, "release", records.Release) or records.Release()
    skipped = _first(export, "skipped_indexes", records.Skipped) or records.Skipped()
    width = source.config.get("d_sae")
    d_sae = width if isinstance(width, int) and 0 < width <= records.MAX_FEATURE + 1 else 0
    repository = "/".join(filter(None, (source.repository, source.folder)))
    return Release(
        name=SaeName(source.model or model.id, source.id),
        model=ModelShape(model.layers, model.dimension),
        dataset=Dataset(source.dataset, source.prompts, source.prompt_tokens),
        hook=_text(source.config.get("hook_name")),
        architecture=_text(source.config.get("architecture")) or "not stated",
        d_sae=max([d_sae, *(number + 1 for number in skipped.skipped_indexes)]),
        released=repository or ", ".join(filter(None, (release.creator, *release.urls))),
        notes=source.notes,
    )


def _first(export: Export, name: str, kind: type[R]) -> R | None:
    """Return the first record of one of the files beside the features."""
    path = export.about.get(name)
    return next((record for record, _, _ in read_lines(export, path, kind)), None) if path else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _spool_feature(spool: Spool, feature: records.Feature, where: str) -> FeatureTotals:
    """Add a feature to the spool, and return the totals of this one feature."""
    spooled = SpooledFeature(
        number=feature.index,
        density=feature.density,
        maximum=max(0.0, feature.maximum or 0.0),
        heights=[round(height) for height in feature.heights],
        middles=feature.middles,
        promoted=spool.tokens(feature.pos_str),
        promoted_logits=feature.pos_values,
        suppressed=spool.tokens(feature.neg_str),
        suppressed_logits=feature.neg_values,
        near=feature.near,
        near_cosine=feature.near_cosine,
    )
    spool.add_feature(spooled, where)
    active = active_tokens(spooled, (), None) if feature.density else 0
    return FeatureTotals(
        d_sae=feature.index + 1,
        hook=feature.hook or "",
        d_in=len(feature.vector),
        dataset=Dataset(feature.dataset, feature.prompts, feature.prompt_tokens),
        active_tokens=active,
        density=feature.density if active else 0.0,
    )


def _spool_examples(spool: Spool, feature: int, activations: Sequence[records.Activation]) -> int:
    """Add examples to the spool, and return the number left out, on whose token the feature is not active."""
    return sum(not spool.add_example(feature, activation) for activation in activations)


def _feature_of(activation: records.Activation, where: str) -> int:
    if activation.index is None:
        raise Unprocessable(f"{where}: index: it does not say of which feature it is.")
    return activation.index


def _spool_explanation(spool: Spool, explanation: records.Explanation) -> None:
    text = clean_text(explanation.description).strip()
    if text:
        machine = clean_text(explanation.machine)
        author = machine or clean_text(explanation.author)
        spool.add_explanation(explanation.index, author, text, is_machine=bool(machine))


def _info(file: str, sha256: str, name: SaeName, release: Release, totals: FeatureTotals) -> ExportInfo:
    dataset = release.dataset.or_else(totals.dataset)
    return ExportInfo(
        file=file,
        sha256=sha256,
        name=name,
        model=release.model,
        dataset=dataset,
        tokens=_tokens(dataset, totals),
        hook=release.hook or totals.hook,
        architecture=release.architecture,
        d_in=totals.d_in,
        d_sae=max(release.d_sae, totals.d_sae),
        released=release.released,
        notes=release.notes,
        remarks=(),
    )


def _tokens(dataset: Dataset, totals: FeatureTotals) -> Tokens:
    """Return the number of tokens that the features were counted on, as stated or by densities and histograms."""
    if dataset.prompts and dataset.prompt_tokens:
        return Tokens(dataset.prompts * dataset.prompt_tokens, True)
    estimate = round(totals.active_tokens / totals.density) if totals.density else 0
    return Tokens(max(_LEAST_TOKENS, estimate), False)


def _check_names(info: ExportInfo) -> None:
    if not info.name.model:
        raise Unprocessable("The export does not say which model it is of. Name its `model`.")
    if not all(storable(text) for text in (info.name.model, info.name.source, info.dataset.name, info.hook)):
        raise Unprocessable("The names of the model and the SAE hold NUL or broken characters.")


def _remarks(tokens: Tokens, left_out: int, strays: int) -> Iterator[str]:
    """Yield a sentence about each thing that was left out or estimated."""
    if left_out:
        yield f"{left_out:,} examples were left out: the feature is not active on the token they are for."
    if strays:
        yield f"{strays:,} examples and explanations were left out: of features that it does not describe."
    if not tokens.stated:
        yield f"It does not say how many tokens were counted: about {tokens.number:,}, by densities and histograms."
