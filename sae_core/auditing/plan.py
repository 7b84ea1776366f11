"""What part of an audit's time each stage takes: as many tokens as the model reads in it."""

from collections.abc import Sequence

from sae_core.auditing.classifier import Cells, texts_to_read
from sae_core.auditing.config import MIN_PAIRS, AuditConfig, NeutralText
from sae_core.auditing.costs import fact_items
from sae_core.auditing.items import Item, is_chosen_half
from sae_core.auditing.measures import Instrument
from sae_core.auditing.scoring import tokens_to_read
from sae_core.auditing.stages import Plan
from sae_core.effects import Fact
from sae_core.models import LanguageModel


def plan_audit(
    model: LanguageModel,
    instrument: Instrument,
    items: Sequence[Item],
    neutral: Sequence[NeutralText],
    facts: Sequence[Fact],
    cells: tuple[Cells, Cells] | None,
    config: AuditConfig,
) -> Plan:
    """Return the stages of an audit, as if features that differ are found wherever they are looked for.

    Args:
        model: the model.
        instrument: what is measured.
        items: that are measured.
        neutral: unrelated text.
        facts: to check.
        cells: texts that a classifier is trained and tested on.
        config: of the audit.
    """
    tested = [item for item in items if not is_chosen_half(item)]
    controls = config.random_controls + 1 if instrument.contrast is not None else 0
    changes = 1 + controls if len(tested) >= MIN_PAIRS and (controls or config.features) else 0
    tokens = {"own": tokens_to_read(model, items)}
    if instrument.contrast is not None:
        sides = [text for item in items if item.sides is not None for text in item.sides]
        tokens["sides"] = sum(len(model.tokenize(text)) for text in sides)
    if changes:
        asked, scored = tokens_to_read(model, fact_items(facts)), tokens_to_read(model, tested)
        tokens |= {"neutral": (1 + changes) * sum(len(text.token_ids) for text in neutral), "facts": asked}
        for number in range(changes):
            tokens |= {f"scores-{number}": scored, f"facts-{number}": asked}
    if cells is not None:
        train, test = cells
        mean = sum(len(model.tokenize(text)) for text in train.both()) / (2 * len(train.label))
        tokens["classifier"] = round(mean * texts_to_read(train, test, config.random_controls + 2))
    return Plan(tokens)
