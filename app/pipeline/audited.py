"""Audits: the set, the science, and what is stored of it."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from app.artifacts import content_key, store_key
from app.errors import Unavailable
from app.pipeline.audit_texts import audited_texts, biographies, measure_name
from app.pipeline.checks import text_of_sae
from app.pipeline.identities import model_source
from app.pipeline.prepared_inputs import TokenisedInputs, model_identity, tokenise
from app.pipeline.registered import hooks_of, open_sae_of_run
from app.queries.audits import NewAudit, put_audit
from app.queries.saes import SaeDetail
from app.queries.text_sets import TextSetView
from app.runs.context import RunContext
from app.runs.job_context import JobContext
from app.services.actors import ensure_person_of_run
from app.services.audit_results import AuditedSet, AuditResult, Treatment
from app.web.components.audit_summary import summary
from sae_core.auditing import Audit, AuditConfig, ClassifierTexts, IndexedCorpus, NeutralText, run_audit
from sae_core.files import sha256_code
from sae_core.store.activation_store import ActivationStore

if TYPE_CHECKING:
    from app.pipeline.audit import AuditParams


async def audit(run: RunContext, ctx: JobContext, params: "AuditParams") -> dict[str, Any]:
    """Audit, store what was found, and return the run's result.

    Raises:
        NotFound: the set is gone.
        AuditError: it has too few usable pairs.
    """
    view, texts = await audited_texts(run, ctx, params.on)
    measure = measure_name(view)
    sae, detail = await open_sae_of_run(run, ctx, params.sae)
    async with ctx.sessions() as session:
        corpus = await text_of_sae(session, [detail], params)
    (inputs,) = await tokenise(run, ctx, model_source(detail.model), [hooks_of(detail)], corpus, reader=(sae, detail))
    texts_of_classifier, missing = await _classifier(run, ctx, params)
    indexed = await run.in_thread(_indexed, ctx, detail, inputs)
    neutral = _neutral(inputs, params.held_out)
    config = AuditConfig(
        features=params.features,
        top=params.top,
        random_controls=params.controls,
        limit=params.pairs,
        seed=params.seed,
    )
    key = content_key(
        audit=measure,
        sae=detail.weights_sha256,
        slug=detail.slug,
        set=view.hash,
        sequences=inputs.sequences.sha256,
        settings=[asdict(config), params.held_out, texts_of_classifier is not None, indexed is not None],
        code=sha256_code(),
        **model_identity(inputs.model),
    )
    folder = ctx.artifacts.audit(key)
    async with run.stage("audit") as progress, run.lock("audit", folder, "this audit"):
        found: Audit = await run.in_thread(
            run_audit,
            inputs.model,
            sae.for_inference().to(inputs.model.device),
            hook=inputs.hooks.input,
            write=inputs.hooks.output,
            measure=measure,
            texts=texts,
            neutral=neutral,
            classifier=texts_of_classifier,
            corpus=indexed,
            config=config,
            folder=folder,
            progress=progress,
        )
        result = _result(replace(found, limits=[*found.limits, *missing]), view, detail)
        number = await _store(run, ctx, detail, result, found)
        shutil.rmtree(folder, ignore_errors=True)
    return _of_run(number, detail, result)


async def _classifier(
    run: RunContext, ctx: JobContext, params: "AuditParams"
) -> tuple[ClassifierTexts | None, list[str]]:
    """Return the texts of a classifier; if they cannot be fetched none, and what the audit lacks."""
    if not params.classifier:
        return None, ["No classifier was trained, because the audit was asked not to."]
    try:
        return await biographies(run, ctx), []
    except Unavailable as error:
        return None, [f"No classifier was trained: {error}"]


def _indexed(ctx: JobContext, detail: SaeDetail, inputs: TokenisedInputs) -> IndexedCorpus | None:
    """Return the corpus of the SAE's index, if it is the text that costs are measured on, and its store is there."""
    sha256 = inputs.sequences.sha256
    if detail.index is None or detail.index.sequence_set.sha256 != sha256:
        return None
    folder = ctx.artifacts.pull(ctx.artifacts.index(store_key(detail, sha256)))
    if not folder.is_dir():
        return None
    return IndexedCorpus(ActivationStore.open(folder), inputs.sequences)


def _neutral(inputs: TokenisedInputs, tokens: int) -> list[NeutralText]:
    """Return the first held-out sequences with at least so many counted tokens, without padding."""
    sequences = inputs.sequences
    found, total = list[NeutralText](), 0
    for number in np.flatnonzero(sequences.is_validation()):
        counted = sequences.counted[number]
        if total >= tokens or not counted.any():
            continue
        end = int(np.flatnonzero(counted).max()) + 1
        found.append(NeutralText(sequences.token_ids[number][:end].tolist(), counted[:end]))
        total += int(counted.sum())
    return found


def _result(found: Audit, view: TextSetView, detail: SaeDetail) -> AuditResult:
    about = AuditedSet(
        name=view.name, source=view.source, licence=view.licence, offensive=view.offensive, hash=view.hash
    )
    return AuditResult.model_validate({**found.to_json(), "set": about.model_dump(), "model": detail.model.name})


async def _store(run: RunContext, ctx: JobContext, detail: SaeDetail, result: AuditResult, found: Audit) -> int:
    async with ctx.sessions.begin() as session:
        new = NewAudit(
            sae_id=detail.id,
            sae=detail.slug,
            on=result.set.name,
            measure=result.measure.name,
            score=result.measure.value,
            result=result.model_dump(mode="json"),
            raw="".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in found.raw),
            run_id=run.run_id,
            owner_id=await ensure_person_of_run(session, run.created_by),
        )
        return await put_audit(session, new)


def _of_run(number: int, detail: SaeDetail, result: AuditResult) -> dict[str, Any]:
    """Return what the run says: the figures of the page in short."""
    ablated = next((one for one in result.treatments if one.kind == "features"), None)
    controls = [one for one in result.treatments if one.is_control]
    return {
        "audit": number,
        "sae": detail.slug,
        "on": result.set.name,
        "measure": result.measure.name,
        "score": result.measure.value,
        "interval": result.measure.interval,
        "pairs": result.measure.pairs,
        "features": _features(result, ablated),
        "controls": [_treated(one) for one in controls],
        **_change(ablated),
        "notes": summary(result),
    }


def _change(ablated: Treatment | None) -> dict[str, Any]:
    if ablated is None or ablated.change is None:
        return {}
    return {
        "ablated": ablated.features,
        "change": ablated.change.value,
        "change_interval": ablated.change.interval,
        "score_after": ablated.score.value,
        "loss_rise": None if ablated.loss is None else ablated.loss.value,
        "kl": None if ablated.kl is None else ablated.kl.value,
        "facts_change": None if ablated.facts_change is None else ablated.facts_change.value,
    }


def _features(result: AuditResult, ablated: Treatment | None) -> list[dict[str, Any]]:
    chosen: Sequence[int] = () if ablated is None else ablated.features
    return [
        {
            "feature": one.feature,
            "effect": one.effect.value,
            "interval": one.effect.interval,
            "q": one.q,
            "ablated": one.feature in chosen,
        }
        for one in result.features
    ]


def _treated(one: Treatment) -> dict[str, Any]:
    figures = ("change", "versus_features", "loss", "kl", "facts_change")
    return {
        "kind": one.kind,
        "name": one.name,
        "features": one.features,
        "score": one.score.value,
        "interval": one.score.interval,
        **{name: None if (figure := getattr(one, name)) is None else figure.model_dump() for name in figures},
    }
