"""Neuronpedia's release layout: `features/`, `activations/` and `explanations/` in batches of gzipped lines of JSON.

The fields are those that Neuronpedia's own export selects from its tables and its import inserts into them
(`docs/formats.md`). What its tables have no column for does not leave: top tokens, co-activity, topics, health flags.
"""

import gzip
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from app.exchange.features import Progress, Source
from app.queries.examples import ExampleView
from app.queries.features import FeatureDetail
from app.queries.labels import LabelView
from app.queries.suggestions import SuggestionView
from app.services.tokens import api_texts

BATCH = 1024
"""Features in a file."""

_CREATOR = "clkht01d40000jv08hvalcvly"
"""The user that Neuronpedia's own tools write; every row of its tables has one."""


async def write_neuronpedia(source: Source, folder: Path, progress: Progress) -> None:
    """Write the folder of a release with one SAE."""
    release = _Release(source)
    for kind in ("features", "activations", "explanations"):
        (folder / kind).mkdir()
    for name, row in release.about().items():
        (folder / f"{name}.jsonl").write_text(_line(row), encoding="utf-8")
    batch: dict[str, list[str]] = {"features": [], "activations": [], "explanations": []}
    number = 0
    async for detail in source.features(progress):
        if detail.index // BATCH != number:
            _write_batch(folder, number, batch)
            number = detail.index // BATCH
        examples = await source.examples(detail.index)
        batch["features"].append(_line(release.feature(detail)))
        batch["activations"].extend(_line(row) for row in release.activations(detail, examples))
        batch["explanations"].extend(_line(row) for row in release.explanations(detail.labels))
        batch["explanations"].extend(_line(row) for row in release.suggestions(detail.suggestions))
    _write_batch(folder, number, batch)


def _write_batch(folder: Path, number: int, batch: dict[str, list[str]]) -> None:
    """Write one file per kind of line that the batch has, and empty the batch."""
    for kind, lines in batch.items():
        if lines:
            packed = gzip.compress("".join(lines).encode(), compresslevel=5, mtime=0)
            (folder / kind / f"batch-{number}.jsonl.gz").write_bytes(packed)
            lines.clear()


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, allow_nan=False) + "\n"


class _Release:
    """Makes rows of Neuronpedia's tables."""

    def __init__(self, source: Source) -> None:
        self._sae, self._index = source.sae, source.index
        imported = self._sae.config.get("imported") or {}
        place, _, layer = self._sae.hook.partition(".")
        self._model = imported.get("model") or self._sae.model.name
        self._set = f"{place.replace('_', '-')}-{self._sae.d_sae}"
        self._source = imported.get("sae") or (f"{layer}-{self._set}" if layer else self._set)
        self._owner = {"modelId": self._model, "layer": self._source}

    def about(self) -> dict[str, dict[str, Any]]:
        """Return the rows of release, model, source set and source, by file name."""
        sae, corpus, creator = self._sae, self._index.sequence_set.corpus, {"creatorId": _CREATOR}
        length = self._index.sequence_set.length
        return {
            "release": {"name": sae.slug, "description": sae.slug, "urls": [], "creatorName": sae.created_by}
            | {"visibility": "PUBLIC", **creator},
            "model": {"id": self._model, "displayName": self._model, "displayNameShort": self._model}
            | {"layers": sae.model.n_layers, "neuronsPerLayer": 0, "dimension": sae.model.d_model}
            | {"owner": "not stated", "visibility": "PUBLIC", **creator},
            "sourceset": {"modelId": self._model, "name": self._set, "description": sae.slug, "urls": []}
            | {"creatorName": sae.created_by, "releaseName": sae.slug, "visibility": "PUBLIC", **creator},
            "source": {"id": self._source, "modelId": self._model, "setName": self._set, "dataset": corpus.title}
            | {"num_prompts": self._index.tokens // length, "num_tokens_in_prompt": length}
            | {"notes": f"{corpus.licence}. {corpus.attribution}", "visibility": "PUBLIC", **creator}
            | {"saelensConfig": {"hook_name": _hook(sae.hook), "architecture": sae.architecture, "d_sae": sae.d_sae}},
        }

    def feature(self, detail: FeatureDetail) -> dict[str, Any]:
        """Return the row of the table `Neuron`."""
        edges, counts = detail.histogram.edges, detail.histogram.counts
        width = edges[1] - edges[0] if len(edges) > 1 else 0.0
        drawn = counts if any(counts) else ()
        return {
            **self._owner,
            "index": str(detail.index),
            "maxActApprox": _rounded(detail.max),
            "creatorId": _CREATOR,
            "frac_nonzero": detail.density,
            "freq_hist_data_bar_heights": list(drawn),
            "freq_hist_data_bar_values": [_rounded(edge + width / 2) for edge, _ in zip(edges, drawn, strict=False)],
            "logits_hist_data_bar_heights": [],
            "logits_hist_data_bar_values": [],
            "neuron_alignment_indices": [],
            "neuron_alignment_l1": [],
            "neuron_alignment_values": [],
            "correlated_neurons_indices": [],
            "correlated_neurons_l1": [],
            "correlated_neurons_pearson": [],
            "decoder_weights_dist": [],
            "neg_str": [api_texts([token.bytes])[0] for token in detail.suppressed],
            "neg_values": [_rounded(token.logit) for token in detail.suppressed],
            "pos_str": [api_texts([token.bytes])[0] for token in detail.promoted],
            "pos_values": [_rounded(token.logit) for token in detail.promoted],
            "sourceSetName": self._set,
            "topkCosSimIndices": [other.index for other in detail.near],
            "topkCosSimValues": [_rounded(other.cosine) for other in detail.near],
            "vector": [],
            "vectorLabel": None,
            "hookName": None,
            "vectorDefaultSteerStrength": None,
            "hasVector": False,
        }

    def activations(self, detail: FeatureDetail, examples: Iterable[ExampleView]) -> Iterator[dict[str, Any]]:
        """Yield rows of the table `Activation`; top examples have a minimum and a share of -1, as in SAEDashboard."""
        edges = detail.band_edges
        for example in examples:
            values = [_rounded(token.activation) for token in example.tokens]
            band = example.band
            interval = (
                (-1, _rounded(detail.max), -1)
                if not band
                else (_rounded(edges[band - 1]), _rounded(edges[band]), detail.density / (len(edges) - 1))
            )
            yield {
                "id": f"{self._sae.slug}-{detail.index}-{band}-{example.rank}",
                **self._owner,
                "index": str(detail.index),
                "creatorId": _CREATOR,
                "dataSource": self._index.sequence_set.corpus.title,
                "tokens": api_texts([token.bytes for token in example.tokens]),
                "maxValue": max(values),
                "minValue": min(values),
                "values": values,
                "maxValueTokenIndex": values.index(max(values)),
                "dfaValues": [],
                "dfaMaxValue": None,
                "dfaTargetIndex": None,
                **dict(zip(("binMin", "binMax", "binContains"), interval, strict=True)),
                "qualifyingTokenIndex": example.position - example.start,
            }

    def explanations(self, labels: Iterable[LabelView]) -> Iterator[dict[str, Any]]:
        """Yield rows of the table `Explanation`, one per label, attributed to its author."""
        for label in labels:
            by = label.author.removeprefix("neuronpedia:")
            method, slash, model = by.partition("/")  # of a machine, imported before suggestions had a table
            machine = (method, model) if slash else (None, None)
            if label.explanation:
                yield self._explanation(f"label-{label.id}", label.feature, label.explanation, by, *machine)

    def suggestions(self, suggestions: Iterable[SuggestionView]) -> Iterator[dict[str, Any]]:
        """Yield rows of the table `Explanation`, one per suggestion of a model: imported ones as they came."""
        for found in suggestions:
            if found.source != "model" or not found.text:
                continue
            method, slash, model = ("seesae", "/", found.model) if found.prompt else found.model.partition("/")
            machine = (method, model if slash else None)
            yield self._explanation(f"suggestion-{found.id}", found.feature, found.text, _CREATOR, *machine)

    def _explanation(
        self, name: str, feature: int, text: str, by: str, method: str | None, model: str | None
    ) -> dict[str, Any]:
        return {
            "id": f"{self._sae.slug}-{name}",
            **self._owner,
            "index": str(feature),
            "authorId": by,
            "description": text,
            "embedding": None,
            "typeName": method,
            "explanationModelName": model,
            "umap_x": 0,
            "umap_y": 0,
            "umap_cluster": 0,
            "umap_log_feature_sparsity": 0,
        }


def _hook(hook: str) -> str:
    """Return TransformerLens' name of a residual hook point; other points have several names, and keep ours."""
    place, _, layer = hook.partition(".")
    return f"blocks.{layer}.hook_{place}" if place.startswith("resid_") else hook


def _rounded(value: float) -> float:
    """Round a Postgres `real` to its shortest decimal form that reads back as the same number."""
    return float(str(np.float32(value))) if value else 0
