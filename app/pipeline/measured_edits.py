"""Side effects of an edit, in parts that are kept on disk: an interruption loses the work on one of them."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from app.artifacts import content_key
from app.errors import NotFound
from app.pipeline.checks import saes_of_edit, text_of_sae
from app.pipeline.identities import model_source
from app.pipeline.prepared_inputs import TokenisedInputs, model_identity, tokenise
from app.pipeline.registered import hooks_of, open_saes_of_run
from app.queries import edits as queries
from app.queries.edits import EditView
from app.queries.saes import SaeDetail
from app.runs.context import RunContext
from app.runs.job_context import JobContext
from app.services.edits import find_edit
from sae_core.effects import (
    CONTROL_PROMPTS,
    Fact,
    FactChange,
    TextChange,
    activation_mass,
    change_of_fact,
    change_of_text,
    control_sites,
    moved_tokens,
    summarise_facts,
    summarise_texts,
)
from sae_core.errors import CorpusError
from sae_core.files import sha256_json, write_atomically, write_json
from sae_core.interventions import Site
from sae_core.interventions.edits import edit_from_json
from sae_core.progress import Progress
from sae_core.saes import SAE

if TYPE_CHECKING:
    from app.pipeline.measure_edit import MeasureEditParams

PART = 8
"""Texts that are measured between two writes to the disk."""
REPLICATES = 1000
TOP_TOKENS = 10
FACTS = ("prompts", "paraphrases", "neighbours")
"""Lists of facts among an edit's checks."""


async def measure(run: RunContext, ctx: JobContext, params: "MeasureEditParams") -> dict[str, Any]:
    """Measure, store the result with the edit, and return the run's result.

    Raises:
        NotFound: the edit is gone, or was deleted meanwhile.
        Conflict: one of its SAEs was deleted.
        CorpusError: no text is held out.
    """
    async with ctx.sessions() as session:
        edit = await find_edit(session, params.edit)
        saved = await queries.edit_file(session, edit.name)
        details = await saes_of_edit(session, edit)
        corpus = await text_of_sae(session, details, params)
    file = json.loads(saved or "{}")
    opened = await open_saes_of_run(run, ctx, [detail.slug for detail in details])
    (inputs,) = await tokenise(
        run, ctx, model_source(details[0].model), [hooks_of(details[0])], corpus, reader=opened[0]
    )
    key = content_key(
        edit=sha256_json(file),
        checks=edit.checks,
        control=CONTROL_PROMPTS,
        sequences=inputs.sequences.sha256,
        **model_identity(inputs.model),
        settings=[params.held_out, params.controls, params.seed],
    )
    folder = ctx.artifacts.effects(key)
    async with run.stage("measure") as progress:
        async with run.lock("measure", folder, "this measurement"):
            measured = await run.in_thread(_measure, edit, file, opened, inputs, params, folder, progress)
        async with ctx.sessions.begin() as session:
            if not await queries.put_measurement(session, edit.id, run.run_id, measured):
                raise NotFound(f"The edit “{edit.name}” was deleted while it was measured.")
    text = measured["text"]
    return {
        "sae": details[0].slug,
        "edit": edit.name,
        "tokens": text["tokens"],
        "kl": text["kl"]["edit"]["value"],
        "kl_control": text["kl"]["control"]["value"],
        "ratio": text["kl"]["ratio"]["value"],
        "loss_rise": text["rise"]["edit"]["value"],
    }


@dataclass(frozen=True)
class _HeldOutText:
    """One text with the tokens that count."""

    token_ids: np.ndarray
    counted: np.ndarray


def _measure(
    edit: EditView,
    file: dict[str, Any],
    opened: Sequence[tuple[SAE, SaeDetail]],
    inputs: TokenisedInputs,
    params: "MeasureEditParams",
    folder: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Measure what is not in the folder yet, and return everything."""
    model = inputs.model
    model.token_bytes()
    saes = [sae.for_inference().to(model.device) for sae, _ in opened]
    texts = _held_out(inputs, params.held_out)
    sites = [_on(site, model.device) for site in edit_from_json(file, edit.name).sites]
    dictionaries = [(sae, _mass(model, site, sae, texts)) for site, sae in zip(sites, saes, strict=True)]
    drawn = [
        control_sites(sites, dictionaries, np.random.default_rng((params.seed, number)))
        for number in range(params.controls)
    ]
    variants = [sites, *(controls for controls, _ in drawn)]
    prepend_bos = saes[0].prepend_bos
    prompts = [_tokenised(inputs, prompt, prepend_bos) for prompt in edit.checks.get("control") or CONTROL_PROMPTS]
    facts = {name: [Fact(**fact) for fact in edit.checks.get(name, ())] for name in FACTS}
    total = len(texts) + len(prompts) + sum(map(len, facts.values()))
    done = 0

    def counting(number: int) -> None:
        nonlocal done
        done += number
        progress(done, total)

    counting(0)
    on_text, moved = _texts(inputs, texts, variants, folder, "text", counting)
    on_prompts, _ = _texts(inputs, prompts, variants, folder, "control", counting)
    bootstrap: dict[str, Any] = {"replicates": REPLICATES, "seed": params.seed}
    measured: dict[str, Any] = {
        "corpus": inputs.corpus_row.slug,
        "controls": params.controls,
        "control_features": [features for _, features in drawn],
        "seed": params.seed,
        "checks": edit.checks,
        "text": summarise_texts(on_text, **bootstrap) | _named(inputs, moved, on_text),
        "control_prompts": summarise_texts(on_prompts, **bootstrap, tops=True),
        "facts": {},
    }
    for name, listed in facts.items():
        changes = []
        for start in range(0, len(listed), PART):
            part = listed[start : start + PART]

            def compute(part: Sequence[Fact] = part) -> list[dict[str, Any]]:
                return [asdict(change_of_fact(model, fact, variants, prepend_bos=prepend_bos)) for fact in part]

            changes += _kept(folder / f"{name}-{start}.json", compute)
            counting(len(part))
        if changes:
            summary = summarise_facts([FactChange(**change) for change in changes], **bootstrap)
            measured["facts"][name] = summary | {"each": [_each(*pair) for pair in zip(listed, changes, strict=True)]}
    return measured


def _held_out(inputs: TokenisedInputs, tokens: int) -> list[_HeldOutText]:
    """Return the first held-out sequences with at least so many counted tokens, without padding."""
    sequences = inputs.sequences
    numbers = [number for number in np.flatnonzero(sequences.is_validation()) if sequences.counted[number].any()]
    upto = np.cumsum([int(sequences.counted[number].sum()) for number in numbers])
    if not len(upto):
        raise CorpusError("No text is held out from training to measure on. Use a corpus with more text.")
    found = []
    for number in numbers[: int((upto < tokens).sum()) + 1]:
        end = int(np.flatnonzero(sequences.counted[number]).max()) + 1
        found.append(_HeldOutText(sequences.token_ids[number][:end], sequences.counted[number][:end]))
    return found


def _tokenised(inputs: TokenisedInputs, prompt: str, prepend_bos: bool) -> _HeldOutText:
    ids = inputs.model.tokenize(prompt, prepend_bos=prepend_bos)
    prefix = len(inputs.model.prefix(prepend_bos=prepend_bos))
    special = inputs.model.special_token_ids
    counted = np.array([place >= prefix and token not in special for place, token in enumerate(ids)])
    return _HeldOutText(np.array(ids), counted)


def _mass(model: Any, site: Site, sae: SAE, texts: Sequence[_HeldOutText]) -> Float[np.ndarray, " d_sae"]:
    total = np.zeros(sae.d_sae)
    for text in texts:
        x = model.activations(torch.tensor([text.token_ids.tolist()]), site.hook)[0]
        total += activation_mass(sae, x, torch.from_numpy(text.counted).to(x.device))
    return total


def _texts(
    inputs: TokenisedInputs,
    texts: Sequence[_HeldOutText],
    variants: Sequence[Sequence[Site]],
    folder: Path,
    name: str,
    counting: Callable[[int], None],
) -> tuple[list[TextChange], Float[np.ndarray, "variant vocab"]]:
    """Return the change of each text, and the summed change of each token's probability over all of them."""
    changes: list[TextChange] = []
    moved = np.zeros((len(variants), inputs.model.vocab_size))
    for start in range(0, len(texts), PART):
        part = texts[start : start + PART]
        arrays = folder / f"{name}-{start}.npy"

        def compute(part: Sequence[_HeldOutText] = part, arrays: Path = arrays) -> list[dict[str, Any]]:
            found = [change_of_text(inputs.model, text.token_ids.tolist(), text.counted, variants) for text in part]
            summed = np.sum([gain for _, gain in found], axis=0, dtype=np.float64).astype(np.float32)
            write_atomically(arrays, lambda file: np.save(file, summed))
            return [asdict(change) for change, _ in found]

        changes += [TextChange(**change) for change in _kept(folder / f"{name}-{start}.json", compute)]
        kept = np.load(arrays)
        moved[:, : kept.shape[1]] += kept
        counting(len(part))
    return changes, moved


def _kept(path: Path, compute: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return what was computed before, or compute and keep it."""
    if not path.exists():
        write_json(path, compute())
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _named(
    inputs: TokenisedInputs, moved: Float[np.ndarray, "variant vocab"], changes: Sequence[TextChange]
) -> dict[str, Any]:
    tokens = sum(change.tokens for change in changes)
    return {
        side: [
            {"id": token, "text": inputs.model.decode([token]), "change": change, "control": control}
            for token, change, control in listed
        ]
        for side, listed in moved_tokens(moved, tokens, TOP_TOKENS).items()
    }


def _each(fact: Fact, change: dict[str, Any]) -> dict[str, Any]:
    """Return one fact with its probabilities: before, with the edit, and with controls on average."""

    def three(values: Sequence[float] | None) -> list[float] | None:
        return None if values is None else [values[0], values[1], float(np.mean(values[2:]))]

    return {
        **asdict(fact),
        "expected_p": three(change["expected"]),
        "forbidden_p": three(change["forbidden"]),
        "holds": change["holds"][:2],
    }


def _on(site: Site, device: torch.device) -> Site:
    return site if site.sae is None else replace(site, sae=site.sae.to(device))
