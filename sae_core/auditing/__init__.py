"""Audit a model for bias: its own measures, the features that differ, what changing them does, and what that costs.

docs/auditing.md has the formulas and their limits.
"""

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
    "MEASURES",
    "AttributeScore",
    "Audit",
    "Classifier",
    "ClassifierTreatment",
    "Contrast",
    "Difference",
    "Enriched",
    "ExamplePair",
    "Figure",
    "LeftOut",
    "Measure",
    "MeasureName",
    "NamedFigure",
    "ShadedToken",
    "Treatment",
    "TreatmentKind",
]
