"""Audit a model for bias: its own measures, the features that differ, what changing them does, and what that costs.

docs/auditing.md has the formulas and their limits.
"""

from sae_core.auditing.audit import run_audit
from sae_core.auditing.biographies import NOTE as BIOGRAPHIES_NOTE
from sae_core.auditing.biographies import Biography, last_names, make_biographies
from sae_core.auditing.classifier import ClassifierTexts
from sae_core.auditing.config import MIN_PAIRS, MIN_RANKED, AuditConfig, NeutralText, SetText
from sae_core.auditing.enrichment import IndexedCorpus
from sae_core.auditing.facts import FACTS, facts_about
from sae_core.auditing.results import (
    MEASURES,
    AttributeScore,
    Audit,
    Classifier,
    ClassifierTreatment,
    Contrast,
    Difference,
    Enriched,
    ExamplePair,
    Figure,
    LeftOut,
    Measure,
    MeasureName,
    NamedFigure,
    ShadedToken,
    Treatment,
    TreatmentKind,
)

__all__ = [
    "BIOGRAPHIES_NOTE",
    "FACTS",
    "MEASURES",
    "MIN_PAIRS",
    "MIN_RANKED",
    "AttributeScore",
    "Audit",
    "AuditConfig",
    "Biography",
    "Classifier",
    "ClassifierTexts",
    "ClassifierTreatment",
    "Contrast",
    "Difference",
    "Enriched",
    "ExamplePair",
    "Figure",
    "IndexedCorpus",
    "LeftOut",
    "Measure",
    "MeasureName",
    "NamedFigure",
    "NeutralText",
    "SetText",
    "ShadedToken",
    "Treatment",
    "TreatmentKind",
    "facts_about",
    "last_names",
    "make_biographies",
    "run_audit",
]
