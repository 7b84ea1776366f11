"""The work: one file per kind of run, each with its `RunSpec`. Importing this package makes all kinds known.

A kind's file is cheap to import, because the command line and the site read it. What it shares with others, and what
needs torch, is in the other modules, which it imports when its work starts.
"""

from app.pipeline import (
    add_text_set,
    audit,
    compare,
    compare_texts,
    demo,
    effects,
    evaluate,
    export,
    import_sae,
    index,
    label_tests,
    measure_edit,
    monitor,
    monitor_scan,
    read_texts,
    suggest,
    train,
)
from app.runs.spec import register

KINDS = (
    train.TRAIN,
    index.INDEX,
    evaluate.EVALUATE,
    compare.COMPARE,
    effects.EFFECTS_RUN,
    measure_edit.MEASURE_EDIT,
    monitor.MONITOR,
    monitor_scan.MONITOR_SCAN,
    audit.AUDIT,
    read_texts.READ_TEXTS,
    compare_texts.COMPARE_TEXTS,
    suggest.SUGGEST,
    label_tests.TEST_LABELS,
    import_sae.IMPORT,
    export.EXPORT,
    add_text_set.ADD_TEXT_SET,
    demo.DEMO,
)

for spec in KINDS:
    register(spec)
