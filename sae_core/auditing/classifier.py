"""A classifier on the model's activations, trained on texts in which label and group go together.

The protocol is that of Marks et al. 2024 (SHIFT) on Bias in Bios: a logistic regression on activations pooled by mean
is trained on two of the four cells of label and group, and tested on all four. What it has learned of the group, rather
than the label, shows in its accuracy and in that of its worst cell.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from sae_core.auditing.config import MIN_PAIRS, AuditConfig, SetText
from sae_core.auditing.contrasts import choose_features, side_differences, test_features
from sae_core.auditing.intervals import Weights, bootstrap_weights, share_figure
from sae_core.auditing.results import Classifier, ClassifierTreatment, Figure, TreatmentKind
from sae_core.auditing.stages import kept_array
from sae_core.auditing.treatments import Change, SaeAt, changes_of
from sae_core.errors import AuditError
from sae_core.interventions import Site, intervene
from sae_core.models import HookPoint, LanguageModel
from sae_core.progress import Progress, rescaled, silent
from sae_core.readings import Reading, read_texts

BATCH_TOKENS = 4096
Activations = Float32[np.ndarray, "text d_model"]


@dataclass(frozen=True)
class ClassifierTexts:
    """Texts in two versions each, with `label`, `group`, `pair` and `fields["part"]`, "train" or "test"."""

    texts: Sequence[SetText]
    note: str
    """Where they come from."""
    read: HookPoint | None = None
    """Whose activations are classified; by default what the last block gives."""


@dataclass(frozen=True)
class Cells:
    """Texts in two versions each, one per group, with the label that both have."""

    labels: tuple[str, str]
    groups: tuple[str, str]
    """In training the first label goes with the first group, the second with the second."""
    texts: Sequence[tuple[str, str]]
    """Versions, in the order of `groups`."""
    label: Sequence[str]

    def confounded(self) -> list[str]:
        """Return of each text the version whose group goes with its label."""
        return [pair[self.labels.index(label)] for pair, label in zip(self.texts, self.label, strict=True)]

    def balanced(self) -> list[str]:
        """Return of each text one version, in turn within each label."""
        seen = dict.fromkeys(self.labels, 0)
        chosen = []
        for pair, label in zip(self.texts, self.label, strict=True):
            chosen.append(pair[seen[label] % 2])
            seen[label] += 1
        return chosen

    def both(self) -> list[str]:
        """Return all texts: those of the first group, then those of the second."""
        return [pair[0] for pair in self.texts] + [pair[1] for pair in self.texts]

    def without_words(self) -> "Cells":
        """Return texts without the words in which their versions differ."""
        return Cells(self.labels, self.groups, [_common_words(*pair) for pair in self.texts], self.label)


def _common_words(first: str, second: str) -> tuple[str, str]:
    one, other = first.split(), second.split()
    kept = " ".join(a for a, b in zip(one, other, strict=True) if a == b)
    return kept, kept


def read_cells(texts: Sequence[SetText]) -> tuple[Cells, Cells]:
    """Return the training and the test texts of a set; `fields["part"]` says which is which.

    Raises:
        AuditError: there are not two labels, two groups and both versions of each text, word for word.
    """
    labels = sorted({str(text.label) for text in texts if text.label is not None})
    groups = sorted({str(text.group) for text in texts if text.group is not None})
    if len(labels) != 2 or len(groups) != 2:
        raise AuditError(
            f"A classifier needs texts of two labels and two groups; these have {len(labels)} and {len(groups)}. "
            "Make the set again, and name the columns of its labels and groups."
        )
    pairs: dict[str, dict[str, SetText]] = {}
    for text in texts:
        pairs.setdefault(str(text.pair), {})[str(text.group)] = text
    whole = [pair for pair in pairs.values() if set(pair) == set(groups) and _are_versions(*pair.values())]
    found = []
    for part in ("train", "test"):
        own = [pair for pair in whole if pair[groups[0]].fields.get("part") == part]
        label = [str(pair[groups[0]].label) for pair in own]
        versions = [(pair[groups[0]].text, pair[groups[1]].text) for pair in own]
        if min(label.count(name) for name in labels) < MIN_PAIRS:
            raise AuditError(
                f"A classifier needs {MIN_PAIRS} texts per label to {part} on, each in a version per group."
            )
        found.append(Cells((labels[0], labels[1]), (groups[0], groups[1]), versions, label))
    return found[0], found[1]


def _are_versions(one: SetText, other: SetText) -> bool:
    return one.label == other.label and len(one.text.split()) == len(other.text.split())


def texts_to_read(train: Cells, test: Cells, changes: int) -> int:
    """Return how many texts the model reads for a classifier with so many changes: as `run_classifier` does."""
    own, both = len(train.label), 2 * len(test.label)
    as_it_is, each_change, words_deleted, balanced = 2 * own + (own + both), own + both, own + both, own
    return as_it_is + changes * each_change + words_deleted + balanced


def pool_activations(
    model: LanguageModel,
    texts: Sequence[str],
    hook: HookPoint,
    sites: Sequence[Site],
    *,
    max_tokens: int,
    progress: Progress = silent,
) -> Activations:
    """Return the mean activation over the tokens of each text, special tokens left out, while interventions are on."""
    tokenized = [model.tokenize(text)[:max_tokens] for text in texts]
    rows = np.zeros((len(texts), model.d_in(hook)), np.float32)
    order = sorted(range(len(texts)), key=lambda number: len(tokenized[number]))
    start = 0
    with intervene(model, sites) if sites else nullcontext():
        while start < len(order):
            end = start + 1
            while end < len(order) and len(tokenized[order[end]]) * (end + 1 - start) <= BATCH_TOKENS:
                end += 1
            for number, row in zip(order[start:end], _pool(model, tokenized, order[start:end], hook), strict=True):
                rows[number] = row
            start = end
            progress(end, len(order))
    return rows


def _pool(
    model: LanguageModel, tokenized: Sequence[Sequence[int]], numbers: Sequence[int], hook: HookPoint
) -> Iterator[Float32[np.ndarray, " d_model"]]:
    ids = torch.zeros((len(numbers), max(len(tokenized[number]) for number in numbers)), dtype=torch.long)
    for row, number in enumerate(numbers):
        ids[row, : len(tokenized[number])] = torch.tensor(tokenized[number])
    activations = model.activations(ids, hook)
    for row, number in enumerate(numbers):
        counted = [place for place, token in enumerate(tokenized[number]) if token not in model.special_token_ids]
        yield activations[row, counted].double().mean(dim=0).float().cpu().numpy()


def fit(activations: Activations, labels: Sequence[str]) -> Pipeline:
    """Return a logistic regression on standardised activations."""
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    return classifier.fit(activations, labels)


# Accuracy


def accuracies(said: Sequence[str], cells: Cells, weights: Weights) -> tuple[Figure, Figure, Figure]:
    """Return the accuracy of the label, the agreement with the group, and the lowest accuracy of a cell.

    Args:
        said: of `cells.both()`.
        weights: of the bootstrap, over texts with both their versions.
    """
    answers = np.array(said).reshape(2, -1)
    label = np.array(cells.label)
    right = (answers == label).astype(float)
    with_group = (answers == np.array(cells.labels)[:, None]).astype(float)
    drawn = weights.sum(axis=1)
    by_cell, smallest = [], min(cells.label.count(name) for name in cells.labels)
    for version in range(2):
        for name in cells.labels:
            own = label == name
            with np.errstate(invalid="ignore", divide="ignore"):
                by_cell.append(weights[:, own] @ right[version, own] / weights[:, own].sum(axis=1))
    profession = share_figure(weights @ right.mean(axis=0) / drawn, len(label))
    group = share_figure(weights @ with_group.mean(axis=0) / drawn, len(label))
    worst = share_figure(np.min(by_cell, axis=0), smallest)
    assert profession and group and worst  # every cell has texts
    return profession, group, worst


@dataclass
class _Study:
    """A classifier's model, texts and settings."""

    model: LanguageModel
    place: SaeAt
    read: HookPoint
    train: Cells
    test: Cells
    config: AuditConfig
    folder: Path | None
    progress: Progress
    done: int = 0
    """Texts that were read, or are being read."""

    def part(self, texts: int) -> Progress:
        """Report the reading of the next texts."""
        total = texts_to_read(self.train, self.test, self.config.random_controls + 2)
        before, self.done = self.done, self.done + texts
        return rescaled(self.progress, total, before / total, self.done / total)

    def pooled(self, name: str, texts: Sequence[str], sites: Sequence[Site] = ()) -> Activations:
        """Return pooled activations, from their file where it is there."""
        tokens, progress = self.config.max_tokens, self.part(len(texts))
        return kept_array(
            self.folder,
            f"classifier-{name}",
            lambda: pool_activations(self.model, texts, self.read, sites, max_tokens=tokens, progress=progress),
        )


def run_classifier(
    model: LanguageModel,
    place: SaeAt,
    train: Cells,
    test: Cells,
    *,
    note: str,
    read: HookPoint | None = None,
    config: AuditConfig,
    folder: Path | None = None,
    progress: Progress = silent,
) -> tuple[Classifier, list[Mapping[str, object]]] | None:
    """Return what ablating features does to a classifier of confounded training, and what it said of each text.

    None if no feature differs between the versions of the training texts.

    The features are those that differ between the versions of the training texts, which are minimal pairs of the group;
    the test texts are not looked at.

    Args:
        model: the model.
        place: the SAE.
        train: texts to train on.
        test: texts to test on.
        note: where they come from.
        read: hook point whose activations are classified; by default what the last block gives.
        config: of the audit; `features` are ablated instead of chosen ones.
        folder: where stages are kept.
        progress: in texts that are read.

    Raises:
        AuditError: a feature is out of range.
    """
    read = read or HookPoint("resid_post", model.n_layers - 1)
    study = _Study(model, place, read, train, test, config, folder, progress)
    sides = read_texts(
        model,
        place.sae,
        train.both(),
        hook=place.hook,
        folder=None if folder is None else folder / "classifier-sides",
        max_tokens=config.max_tokens,
        progress=study.part(2 * len(train.label)),
    )
    features = list(config.features or _choose(sides, config))
    if not features:
        return None
    changes = list(changes_of(place, features, sides, random_controls=config.random_controls, seed=config.seed))
    treatments: list[ClassifierTreatment] = []
    raw: list[Mapping[str, object]] = []
    for kind, name, retrained, said, changed in _answers(study, changes):
        weights = bootstrap_weights(len(test.label), config.replicates, config.seed)
        found = accuracies(said, test, weights)
        treatments.append(ClassifierTreatment(kind, name, retrained, *found, changed))
        for place_, answer in enumerate(said):
            row = place_ % len(test.label)
            group = test.groups[place_ // len(test.label)]
            told = {"text": row, "label": test.label[row], "group": group, "said": answer}
            raw.append({"stage": "classifier", "treatment": name, "retrained": retrained, **told})
    return (
        Classifier(note, train.labels, train.groups, len(train.label), 2 * len(test.label), features, treatments),
        raw,
    )


def _choose(sides: Reading, config: AuditConfig) -> list[int]:
    tested = test_features(side_differences(sides), np.ones(sides.texts // 2, bool))
    return choose_features(tested, top=config.top, q=config.q)


_Answer = tuple[TreatmentKind, str, bool, list[str], Sequence[int]]


def _answers(study: _Study, changes: Sequence[Change]) -> Iterator[_Answer]:
    """Yield what the classifier says of the test texts after each treatment, without retraining and with it."""
    train, test = study.train, study.test
    plain_test = study.pooled("test", test.both())
    plain = fit(study.pooled("train", train.confounded()), train.label)
    yield "none", "Trained on confounded texts", False, _said(plain, plain_test), ()
    for change in changes:
        changed = study.pooled(f"test-{change.key}", test.both(), change.sites)
        yield change.kind, change.name, False, _said(plain, changed), change.features
        again = fit(study.pooled(f"train-{change.key}", train.confounded(), change.sites), train.label)
        yield change.kind, change.name, True, _said(again, changed), change.features
    deleted = study.pooled("test-tokens", test.without_words().both())
    name = "Gendered words deleted" if set(test.groups) == {"female", "male"} else "Words of the group deleted"
    yield "tokens", name, False, _said(plain, deleted), ()
    again = fit(study.pooled("train-tokens", train.without_words().confounded()), train.label)
    yield "tokens", name, True, _said(again, deleted), ()
    oracle = fit(study.pooled("train-balanced", train.balanced()), train.label)
    yield "balanced", "Trained on balanced texts", True, _said(oracle, plain_test), ()


def _said(classifier: Pipeline, activations: Activations) -> list[str]:
    return [str(answer) for answer in classifier.predict(activations)]
