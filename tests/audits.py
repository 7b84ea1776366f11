"""Made-up audits."""

import json
from typing import Any, Protocol

from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.audits import NewAudit, put_audit
from app.queries.saes import SaeDetail
from app.services.actors import Actor, ensure_person
from app.services.audit_results import AuditResult

RAW = '{"stage": "item", "item": "=<b>", "log_probs": [-3.5, -4]}\n{"stage": "fact", "prompt": "a"}\n'
HOSTILE = "<script>alert(1)</script>" + "W" * 60


def figure(value: float, *interval: float) -> dict[str, Any]:
    """A value with its interval, if one is given."""
    return {"value": value, "interval": interval or None}


def treatment(kind: str, name: str, score: float, change: float, versus: float | None, **more: Any) -> dict[str, Any]:
    """A treatment whose intervals reach two points to each side."""
    around = {} if versus is None else {"versus_features": figure(versus, versus - 0.02, versus + 0.02)}
    return {
        "kind": kind,
        "name": name,
        "score": figure(score, score - 0.02, score + 0.02),
        "change": figure(change, change - 0.02, change + 0.02),
        "loss": figure(0.01, 0.005, 0.02),
        "kl": figure(0.02, 0.01, 0.03),
        "facts": figure(0.7, 0.6, 0.8),
        "also": [{"name": "language modelling score", **figure(0.8, 0.7, 0.9)}],
        "also_change": [{"name": "language modelling score", **figure(-0.1, -0.2, 0.0)}],
        "facts_change": figure(-0.1, -0.2, -0.01),
        **around,
        **more,
    }


def audited(**changes: Any) -> AuditResult:
    """A result with everything that a page can show, and hostile words in it."""
    sides = {
        "stereotype": [{"text": "<b>She", "activation": 3.0}, {"text": " is", "activation": 0.0}],
        "other": [{"text": "He", "activation": 0.5}, {"text": " is\n", "activation": 0.0}],
    }
    features = [
        {
            "feature": number,
            "effect": figure(0.8 - number / 10, 0.4 - number / 10, 1.2 - number / 10),
            "pairs": 40,
            "p": 0.001,
            "q": 0.01,
            "token": "<u>she" if number == 1 else None,
            "example": {"pair": HOSTILE, **sides},
        }
        for number in range(3)
    ]
    accuracy = {"profession": figure(0.8, 0.7, 0.9), "group": figure(0.6, 0.5, 0.7)}
    given: dict[str, Any] = {
        "set": {"name": "crows-pairs", "source": HOSTILE, "licence": "CC BY-SA 4.0", "offensive": True},
        "model": "tiny",
        "measure": {
            "name": "preference",
            "sentence": "finds the stereotyping sentence likelier",
            "pairs": 400,
            **figure(0.6, 0.55, 0.65),
            "attributes": [
                {"attribute": "gender", "pairs": 200, "q": 0.001, **figure(0.65, 0.58, 0.71)},
                {"attribute": HOSTILE, "pairs": 200, "q": 0.3, **figure(0.55, 0.48, 0.62)},
            ],
            "also": [{"name": "language modelling score", **figure(0.9, 0.85, 0.95)}],
        },
        "contrast": {"first": "<i>stereotype", "second": "other"},
        "chosen_on": 200,
        "tested_on": 200,
        "tested_features": 24,
        "sae_features": 4096,
        "features": features,
        "enriched": [{"feature": 5, "attribute": "<i>music", "lift": figure(3.0, 2.0, 4.0), "q": 0.001}],
        "treatments": [
            {
                "kind": "none",
                "name": "the model as it is",
                "score": figure(0.6, 0.53, 0.67),
                "facts": figure(0.8, 0.7, 0.9),
            },
            treatment("features", "these features ablated", 0.5, -0.1, None, features=[0, 1, 2]),
            treatment("random", "random features, 1", 0.6, 0.0, -0.1, features=[7, 8, 9]),
            treatment("random", "random features, 2", 0.59, -0.01, -0.09, features=[10, 11, 12]),
            treatment("diffmean", "difference of means projected out", 0.51, -0.09, -0.01),
            treatment("tokens", "tokens deleted", 0.45, -0.15, 0.05),
        ],
        "cost_tokens": 4096,
        "facts": 40,
        "facts_about": ["gender"],
        "facts_example": "The mother was tired, so she",
        "classifier": {
            "note": "Templated biographies.",
            "train_texts": 400,
            "test_texts": 200,
            "features": [0, 1, 2],
            "treatments": [
                {"kind": "none", "name": "as trained", **accuracy, "worst_group": figure(0.2, 0.1, 0.3)},
                {"kind": "features", "name": "features ablated", **accuracy, "worst_group": figure(0.6, 0.5, 0.7)},
                {
                    "kind": "balanced",
                    "name": "trained on balanced texts",
                    **accuracy,
                    "worst_group": figure(0.9, 0.8, 1.0),
                },
            ],
        },
        "limits": ["Only pairs in English.", HOSTILE],
    }
    return AuditResult.model_validate({**given, **changes})


class Names(Protocol):
    """Gives each place a name that is found again."""

    def name(self, where: str) -> str:
        """Return one line."""


def hostile_audit(hostile: Names) -> dict[str, Any]:
    """Changes of `audited` with hostile text wherever people, models or sets write."""
    whole = audited().model_dump(mode="json")
    whole["set"] |= {"name": hostile.name("audited set"), "source": hostile.name("source of an audited set")}
    whole["set"]["licence"] = hostile.name("licence of an audited set")
    whole["measure"]["attributes"][0]["attribute"] = hostile.name("attribute")
    whole["measure"]["left_out"] = [{"reason": "too long", "items": 1, "examples": [hostile.name("left out")]}]
    whole["contrast"] = {"first": hostile.name("a side"), "second": hostile.name("the other side")}
    whole["features"][0] |= {"token": hostile.name("only token")}
    whole["features"][0]["example"] = {
        "pair": hostile.name("pair"),
        "stereotype": [{"text": hostile.name("token of a pair"), "activation": 1.0}],
        "other": [{"text": hostile.name("token of the other side"), "activation": 0.0}],
    }
    whole["enriched"][0]["attribute"] = hostile.name("topic")
    whole["classifier"]["treatments"][0]["name"] = hostile.name("treatment of a classifier")
    whole["limits"] = [hostile.name("limit")]
    raw = {"stage": "item", "item": hostile.name("raw pair"), "scores": {hostile.name("raw column"): 1.0}}
    return {**whole, "raw": f"{json.dumps(raw)}\n"}


async def add_audit(session: AsyncSession, sae: SaeDetail, run: int, raw: str = RAW, **changes: Any) -> int:
    """Store an audit of `audited`; its id."""
    result = audited(**changes)
    new = NewAudit(
        sae_id=sae.id,
        sae=sae.slug,
        on=result.set.name,
        measure=result.measure.name,
        score=result.measure.value,
        result=result.model_dump(mode="json"),
        raw=raw,
        run_id=run,
        owner_id=await ensure_person(session, Actor("ada")),
    )
    return await put_audit(session, new)
