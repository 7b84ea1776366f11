"""An audit from a set of texts to its result, stage by stage."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64

from sae_core.auditing.classifier import Cells, ClassifierTexts, read_cells, run_classifier
from sae_core.auditing.config import MIN_PAIRS, MIN_RANKED, AuditConfig, NeutralText, SetText
from sae_core.auditing.contrasts import choose_features, describe, side_differences, test_features
from sae_core.auditing.costs import score_changed
from sae_core.auditing.enrichment import IndexedCorpus, enriched_features
from sae_core.auditing.facts import facts_about
from sae_core.auditing.items import Item, draw, is_chosen_half
from sae_core.auditing.measures import INSTRUMENTS, Instrument, measure_of, named_sides
from sae_core.auditing.outcomes import measure_treatments
from sae_core.auditing.plan import plan_audit
from sae_core.auditing.results import Audit, Classifier, Difference, LeftOut, Measure, MeasureName
from sae_core.auditing.scoring import LogProbs, fits
from sae_core.auditing.stages import UNITS, Run, kept_scores
from sae_core.auditing.treatments import SaeAt, changes_of, check_features
from sae_core.effects import Fact
from sae_core.errors import AuditError
from sae_core.models import HookPoint, LanguageModel
from sae_core.progress import Progress, silent
from sae_core.readings import Reading, read_texts, select_texts
from sae_core.saes import SAE

_LIMITS_OF_CHANGES = (
    "A feature is ablated where it is active. The word in which two sides differ is predicted from what stands before "
    "it, so ablation changes the likelihood of what follows that word, and hardly its own.",
    "Random features are matched in activation mass on the pairs; on unrelated text they may be active more often, and "
    "cost more.",
)


def run_audit(
    model: LanguageModel,
    sae: SAE,
    *,
    hook: HookPoint,
    measure: MeasureName,
    texts: Sequence[SetText],
    neutral: Sequence[NeutralText] = (),
    facts: Sequence[Fact] | None = None,
    classifier: ClassifierTexts | None = None,
    corpus: IndexedCorpus | None = None,
    write: HookPoint | None = None,
    config: AuditConfig | None = None,
    folder: Path | None = None,
    progress: Progress = silent,
) -> Audit:
    """Return what an audit of a model and an SAE on a text set finds. The same call continues what was interrupted.

    Args:
        model: the model.
        sae: in its inference form, on the model's device.
        hook: point that the SAE reads.
        measure: how the texts are asked about; `items.py` says what fields each needs.
        texts: of the set, in order.
        neutral: held-out text on which the costs of changes are measured; without it they are unknown.
        facts: to check before and after; by default those that `facts_about` has for the set's attributes.
        classifier: texts of two labels and two groups, to train a classifier on top of the model.
        corpus: of the SAE's index, whose metadata may name protected attributes.
        write: point that a transcoder writes.
        config: how the audit is made.
        folder: where stages are kept. It is of this call's inputs alone: name it by their hashes.
        progress: in thousandths of the audit.

    Raises:
        AuditError: the set has too few usable items, a feature is out of range, or the classifier's texts are not two
            versions of each.
        ModelError: the model has no such hook point, or the SAE reads another width.
        ArtifactError: the disk is full, or a stage's file is damaged.
    """
    settings = config or AuditConfig()
    if settings.features is not None:
        check_features(sae, settings.features)
    if model.d_in(hook) != sae.d_in:
        raise AuditError(
            f"The SAE reads {sae.d_in} dimensions, and {model.name} has {model.d_in(hook)} at {hook}: "
            "it is not an SAE of this model and hook point. Choose one that is."
        )
    cells = None if classifier is None else read_cells(classifier.texts)
    items, left_out = usable_items(model, INSTRUMENTS[measure], texts, settings)
    instrument = named_sides(INSTRUMENTS[measure], items)
    asked, about, note = (
        facts_about(_attributes(instrument, items)) if facts is None else (facts, (), "Given with the audit.")
    )
    plan = plan_audit(model, instrument, items, neutral, asked, cells, settings)
    run = Run(model, SaeAt(sae, hook, write), instrument, settings, folder, progress, plan)
    scores = kept_scores(folder, "scores-none", lambda: score_changed(model, items, (), progress=run.part("own")))
    values = instrument.values(items, scores)
    own = replace(
        measure_of(instrument, items, values, replicates=settings.replicates, seed=settings.seed),
        left_out=left_out,
    )
    run.note_items("none", items, scores, values)
    audit = Audit(own, instrument.contrast, sae_features=sae.d_sae, settings=asdict(settings))
    audit = _with_features(run, audit, items, scores, neutral, asked)
    audit = replace(audit, facts_about=about, facts_note=note) if audit.treatments else audit
    if corpus is not None:
        enriched, note = enriched_features(
            corpus,
            _attributes(instrument, items),
            listed=settings.listed,
            replicates=settings.replicates,
            seed=settings.seed,
        )
        audit = replace(audit, enriched=enriched, enriched_note=note)
    if classifier is not None and cells is not None:
        audit = replace(audit, classifier=_classify(run, classifier, *cells))
    progress(UNITS, UNITS)
    return replace(audit, limits=[*_limits(own), *run.limits], raw=run.raw)


def usable_items(
    model: LanguageModel, instrument: Instrument, texts: Sequence[SetText], config: AuditConfig
) -> tuple[list[Item], list[LeftOut]]:
    """Return the items that are measured, and those that are left out.

    Raises:
        AuditError: fewer than `MIN_PAIRS` are left.
    """
    found = instrument.read(texts)
    whole = [item for item in found.items if fits(model, item, config.max_tokens)]
    long = [item.key for item in found.items if not fits(model, item, config.max_tokens)]
    reasons = dict(found.left_out)
    if long:
        context = model.context_length or config.max_tokens
        reasons[f"empty, or longer than {min(config.max_tokens, context)} tokens"] = long
    left_out = [LeftOut(reason, len(keys), keys[:5]) for reason, keys in reasons.items()]
    if len(whole) < MIN_PAIRS:
        why = "; ".join(f"{one.items} left out: {one.reason}" for one in left_out)
        raise AuditError(
            f"An audit needs at least {MIN_PAIRS} pairs or questions, and this set has {len(whole)} that can be used"
            f"{f' ({why})' if why else ''}. Use a larger set, or another measure."
        )
    return draw(whole, config.limit), left_out


# Features and what changing them does


def _with_features(
    run: Run,
    audit: Audit,
    items: Sequence[Item],
    scores: LogProbs,
    neutral: Sequence[NeutralText],
    asked: Sequence[Fact],
) -> Audit:
    """Add the features that differ, the treatments and their costs."""
    chosen_on = np.array([is_chosen_half(item) for item in items])
    features = list(run.config.features or ())
    half = None
    if run.instrument.contrast is not None:
        reading = _read_sides(run, items)
        found, chosen, tested = _compare_sides(run, items, reading, chosen_on)
        half = _first_then_second(reading, np.flatnonzero(chosen_on)) if chosen_on.any() else None
        audit = replace(audit, chosen_on=int(chosen_on.sum()), tested_features=tested, features=found)
        features = features or chosen
    if not features:
        run.limits.append(
            "No feature differs between the sides of pairs, so none was changed."
            if run.instrument.contrast is not None
            else "This set has no minimal pairs to choose features on: name features to see what changing them does."
        )
        return audit
    places = np.flatnonzero(~chosen_on)
    if len(places) < MIN_PAIRS:
        run.limits.append(f"Only {len(places)} pairs are left to test changes on, so none was made.")
        return audit
    changes = list(
        changes_of(run.place, features, half, random_controls=run.config.random_controls, seed=run.config.seed)
    )
    tested_items = [items[place] for place in places.tolist()]
    before = LogProbs(scores.total[places], scores.tokens[places])
    if half is not None:
        run.limits.extend(_LIMITS_OF_CHANGES)
    treatments, tokens = measure_treatments(run, tested_items, before, changes, neutral, asked)
    return replace(
        audit,
        tested_on=len(places),
        treatments=treatments,
        cost_tokens=tokens,
        facts=len(asked),
        facts_example=f"{asked[0].prompt} {asked[0].expected}" if asked else "",
    )


def _classify(run: Run, texts: ClassifierTexts, train: Cells, test: Cells) -> Classifier | None:
    found = run_classifier(
        run.model,
        run.place,
        train,
        test,
        note=texts.note,
        read=texts.read,
        config=run.config,
        folder=run.folder,
        progress=run.part("classifier"),
    )
    if found is None:
        run.limits.append("No feature differs between the versions of the classifier's texts, so none was ablated.")
        return None
    run.raw.extend(found[1])
    return found[0]


def _attributes(instrument: Instrument, items: Sequence[Item]) -> set[str]:
    return {"gender"} if instrument.name == "winobias" else {item.attribute for item in items}


def _read_sides(run: Run, items: Sequence[Item]) -> Reading:
    """Return the reading of all first sides, then of all second sides."""
    sides = [item.sides for item in items if item.sides is not None]
    return read_texts(
        run.model,
        run.place.sae,
        [first for first, _ in sides] + [second for _, second in sides],
        hook=run.place.hook,
        folder=None if run.folder is None else run.folder / "sides",
        max_tokens=run.config.max_tokens,
        progress=run.part("sides"),
    )


def _first_then_second(reading: Reading, pairs: Int64[np.ndarray, " chosen"]) -> Reading:
    """Return the reading of both sides of some pairs."""
    return select_texts(reading, np.concatenate([pairs, pairs + reading.texts // 2]))


def _compare_sides(
    run: Run, items: Sequence[Item], reading: Reading, chosen_on: Bool[np.ndarray, " pair"]
) -> tuple[list[Difference], list[int], int]:
    """Return the features that differ, those to change, and how many were compared."""
    differences = side_differences(reading)
    tested = test_features(differences, chosen_on)
    chosen = choose_features(tested, top=run.config.top, q=run.config.q)
    found = describe(
        run.model,
        reading,
        differences,
        tested,
        chosen_on,
        [item.key for item in items],
        listed=run.config.listed,
        replicates=run.config.replicates,
        seed=run.config.seed,
    )
    run.raw.append({"stage": "test", "features": tested.features.tolist(), "p": tested.p.tolist()})
    for one in found:
        column = differences[:, [one.feature]].toarray()[:, 0]
        run.raw.append({"stage": "difference", "feature": one.feature, "differences": column.tolist()})
    return found, chosen, len(tested.features)


def _limits(measure: Measure) -> list[str]:
    """Return what the figures of a measure cannot say."""
    said = ["Intervals are for other items of the same kind, and take items as independent and the model as it is."]
    said += [f"{one.items} items were left out: {one.reason}." for one in measure.left_out]
    few = [one.attribute for one in measure.attributes if one.pairs < MIN_RANKED]
    if few:
        said.append(f"Attributes of fewer than {MIN_RANKED} pairs are neither tested nor ranked: {', '.join(few)}.")
    if measure.name == "crows-pairs":
        said.append(
            "This is a reduced form of CrowS-Pairs: pairs that differ in one word, of which it has "
            f"{measure.pairs}. The original has 1,508, and its authors and others found many of them unclear."
        )
    if measure.name == "stereoset":
        said.append("The paper means SS and LMS over target terms; here they are shares of all triples.")
    if measure.name == "winobias":
        said.append("The model is asked whom a pronoun means in words; the paper used systems made for coreference.")
    if measure.name == "bbq" and measure.neutral is None:
        said.append(
            "The set does not say which answer follows the stereotype, so BBQ's bias score cannot be computed: the "
            "score is the share of right answers, and is not a measure of bias."
        )
    return said
