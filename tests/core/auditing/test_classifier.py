"""A classifier on top: its accuracies are those that scikit-learn gives, before and after each change."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from sae_core.auditing import AuditConfig, Classifier, ClassifierTexts, make_biographies, run_audit
from sae_core.auditing.classifier import Cells, pool_activations, read_cells
from sae_core.errors import AuditError
from sae_core.interventions import Intervention, Site, intervene
from sae_core.models import HookPoint, LanguageModel
from sae_core.saes import SAE
from tests.core.auditing.conftest import Text, pair_texts
from tests.core.auditing.test_biographies import NAMES

pytestmark = pytest.mark.slow

HOOK = HookPoint("resid_post", 1)
LAST = HookPoint("resid_post", 3)
BIOGRAPHIES = make_biographies(NAMES, train=40, test=24)
CONFIG = AuditConfig(top=4, random_controls=1, replicates=100)


def pooled(model: LanguageModel, texts: list[str], sites: list[Site] | None = None) -> np.ndarray:
    """Return mean activations, one text at a time."""
    rows = []
    for text in texts:
        ids = torch.tensor([model.tokenize(text)])
        with intervene(model, sites or [Site(HOOK, [Intervention("add", 0.0, direction=torch.ones(32))])]):
            rows.append(model.activations(ids, LAST)[0, 1:].mean(dim=0).numpy())
    return np.stack(rows)


@pytest.fixture(scope="module")
def cells() -> tuple[Cells, Cells]:
    return read_cells(BIOGRAPHIES)


@pytest.fixture(scope="module")
def found(model: LanguageModel, sae: SAE, tmp_path_factory: pytest.TempPathFactory) -> tuple[Classifier, list[dict]]:
    audit = run_audit(
        model,
        sae,
        hook=HOOK,
        measure="crows-pairs",
        texts=pair_texts(12),
        classifier=ClassifierTexts(BIOGRAPHIES, "made up"),
        config=CONFIG,
        folder=tmp_path_factory.mktemp("classifier"),
    )
    assert audit.classifier is not None
    return audit.classifier, [dict(row) for row in audit.raw if row["stage"] == "classifier"]


def test_training_is_confounded_the_oracle_is_not_and_tests_have_all_cells(cells: tuple[Cells, Cells]) -> None:
    train, test = cells
    assert train.labels == ("nurse", "professor") and train.groups == ("female", "male")
    for text, label in zip(train.confounded(), train.label, strict=True):
        assert ("Ms " in text) == (label == "nurse")
    women = ["Ms " in text for text in train.balanced()]
    for label in train.labels:
        assert sum(w for w, own in zip(women, train.label, strict=True) if own == label) == 10
    both = test.both()
    assert all("Ms " in text for text in both[:24]) and all("Mr " in text for text in both[24:])
    assert not any(word in text.split() for text in train.without_words().both() for word in ("she", "he", "Ms", "her"))


def test_accuracies_are_those_of_scikit_learn(
    found: tuple[Classifier, list[dict]], cells: tuple[Cells, Cells], model: LanguageModel, sae: SAE
) -> None:
    classifier, raw = found
    train, test = cells
    changes = [Site(HOOK, [Intervention("ablate", feature=feature) for feature in classifier.features], sae=sae)]
    scaler, regression = StandardScaler(), LogisticRegression(max_iter=2000)
    regression.fit(scaler.fit_transform(pooled(model, train.confounded())), train.label)
    for treatment, sites in ((classifier.treatments[0], None), (classifier.treatments[1], changes)):
        said = regression.predict(scaler.transform(pooled(model, test.both(), sites)))
        rows = [row for row in raw if (row["treatment"], row["retrained"]) == (treatment.name, treatment.retrained)]
        assert np.mean([row["said"] == answer for row, answer in zip(rows, said, strict=True)]) >= 0.97
    assert classifier.train_texts == 40 and classifier.test_texts == 48


def test_figures_follow_from_what_was_said(found: tuple[Classifier, list[dict]]) -> None:
    classifier, raw = found
    kinds = [(one.kind, one.retrained) for one in classifier.treatments]
    assert kinds[:3] == [("none", False), ("features", False), ("features", True)]
    assert kinds[-3:] == [("tokens", False), ("tokens", True), ("balanced", True)] and ("diffmean", True) in kinds
    goes_with = {"female": "nurse", "male": "professor"}
    for one in classifier.treatments:
        rows = [row for row in raw if (row["treatment"], row["retrained"]) == (one.name, one.retrained)]
        right = [row["said"] == row["label"] for row in rows]
        assert one.profession.value == pytest.approx(np.mean(right))
        assert one.group.value == pytest.approx(np.mean([row["said"] == goes_with[row["group"]] for row in rows]))
        by_cell: dict[tuple[str, str], list[bool]] = {}
        for row, answer in zip(rows, right, strict=True):
            by_cell.setdefault((row["label"], row["group"]), []).append(answer)
        assert len(by_cell) == 4
        assert one.worst_group.value == pytest.approx(min(np.mean(cell) for cell in by_cell.values()))
        assert one.profession.interval and one.profession.interval[0] <= one.profession.value


def test_a_change_at_the_hook_that_is_read_is_seen(model: LanguageModel, sae: SAE) -> None:
    texts = [text.text for text in BIOGRAPHIES[:6]]
    unit = torch.nn.functional.normalize(torch.arange(32.0), dim=0)
    sites = [Site(HOOK, [Intervention("ablate", direction=unit)])]
    changed = pool_activations(model, texts, HOOK, sites, max_tokens=512)
    plain = pool_activations(model, texts, HOOK, (), max_tokens=512)
    assert abs(changed @ unit.numpy()).max() < 1e-3 < abs(plain @ unit.numpy()).max()


def test_texts_that_are_not_versions_are_refused() -> None:
    with pytest.raises(AuditError, match="two labels and two groups; these have 1 and 2"):
        read_cells([replace(text, label="nurse") for text in BIOGRAPHIES])
    with pytest.raises(AuditError, match="10 texts per label to train on"):
        read_cells([Text(text.text, text.label, text.group, text.pair, text.fields) for text in BIOGRAPHIES[:20]])


def test_features_that_are_named_are_ablated(model: LanguageModel, sae: SAE, tmp_path: Path) -> None:
    audit = run_audit(
        model,
        sae,
        hook=HOOK,
        measure="crows-pairs",
        texts=pair_texts(12),
        classifier=ClassifierTexts(BIOGRAPHIES, "made up", HOOK),
        config=replace(CONFIG, features=(5, 6), random_controls=0),
    )
    assert audit.classifier is not None and list(audit.classifier.features) == [5, 6]
