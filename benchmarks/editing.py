"""Can one edit correct one date? Pearl Harbor, which the demo's model moves to 1944; docs/editing.md tells the story.

    python benchmarks/editing.py HOME [--json FILE]

HOME is the home folder of a finished demo (`SEESAE_HOME`). Edits of four families, and pairs, are tried on prompts and
neighbouring facts that serve for choosing alone. Four of them are then measured on other prompts, other neighbours and
held-out text, beside random features or directions. Each is written to a file, and what the file does to a plain
`transformers` model is compared with these figures.
"""

import argparse
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from report import machine

from sae_core import HookPoint, LanguageModel, load_model, load_sae
from sae_core.attribution import HookedSAE, Target, attribute
from sae_core.corpora import Sequences
from sae_core.effects import UpperLayers
from sae_core.interventions import Edit, Intervention, Site, apply_edits, save_edit
from sae_core.saes import SAE

SAE_NAME, HOOK = "smollm2-135m-l9-batchtopk-4096", HookPoint.parse("resid_post.9")
RIGHT, WRONG = "1941", "1944"
PROMPT = "The attack on Pearl Harbor took place in the year"
CHOOSING = (
    "The attack on Pearl Harbor happened in the year",
    "The Japanese attack on Pearl Harbor took place in",
    "Pearl Harbor was attacked by Japan in",
    "Japanese planes attacked the American fleet at Pearl Harbor in",
    "The surprise attack on Pearl Harbor occurred in",
    "The USS Arizona was sunk at Pearl Harbor in the year",
    "The year of the attack on Pearl Harbor was",
    "The Japanese navy bombed Pearl Harbor in",
)
REPORTING = (
    "Japan launched its attack on Pearl Harbor in",
    "The raid on Pearl Harbor took place in the year",
    "Pearl Harbor was attacked by the Japanese in the year",
    "The naval base at Pearl Harbor was attacked in",
    "The attack on Pearl Harbor, which brought the United States into the war, took place in",
    "Japanese aircraft bombed the naval base at Pearl Harbor in",
    "The attack on the American fleet at Pearl Harbor happened in",
    "In which year was the attack on Pearl Harbor? It was in",
    "The attack on Pearl Harbor was in December of the year",
    "The attack on Pearl Harbor occurred on December 7,",
    "The battleship Arizona was destroyed at Pearl Harbor in",
    "The Japanese attack on Pearl Harbor was in the year",
    "The attack on Pearl Harbor by Japan took place in",
    "Pearl Harbor in Hawaii was bombed by the Japanese in",
    "The Pearl Harbor attack took place in the year",
    "The Japanese strike against Pearl Harbor was in",
)
ANSWERED_RIGHT = (
    "The Japanese attacked Pearl Harbor in the year",
    "The United States entered World War II after the attack on Pearl Harbor in",
    "The date of the attack on Pearl Harbor is December 7,",
    "Question: When was Pearl Harbor attacked? Answer: in",
)
"""Phrasings whose date the model knows; for directions alone."""
IN_1941 = (
    "Germany invaded the Soviet Union in June",
    "The Atlantic Charter was signed in August",
    "Germany invaded Yugoslavia and Greece in April",
    "Japan attacked Malaya and Hong Kong in December",
    "The Battle of Moscow began in October",
    "The battleship Bismarck was sunk in May",
)
IN_1944 = (
    "The Warsaw Uprising took place in August",
    "Rome was liberated by the Allies in June",
    "The Battle of Leyte Gulf took place in October",
    "The Bretton Woods Conference was held in July",
    "The Battle of Monte Cassino ended in May",
    "The liberation of Paris took place in August",
)

Facts = tuple[tuple[str, str], ...]
"""Prompts with the years that follow; neighbours are all facts that the unchanged model dates right."""
CHOOSING_NEIGHBOURS: Facts = (
    ("The Warsaw Uprising took place in", "1944"),
    ("The Battle of Leyte Gulf took place in", "1944"),
    ("The liberation of Paris took place in August", "1944"),
    ("The Battle of Midway took place in the year", "1942"),
    ("Auschwitz was liberated in January", "1945"),
    ("Germany surrendered to the Allies in May", "1945"),
    ("The Treaty of Versailles was signed in the year", "1919"),
    ("The American Civil War began in the year", "1861"),
    ("The Battle of Waterloo took place in the year", "1815"),
    ("The Norman conquest of England was in the year", "1066"),
)
SAME_WAR: Facts = (
    ("The siege of Leningrad began in September", "1941"),
    ("The United States declared war on Germany in December", "1941"),
    ("President Roosevelt declared war on Japan in December", "1941"),
    ("The Battle of the Coral Sea took place in May", "1942"),
    ("The Doolittle Raid on Tokyo took place in April", "1942"),
    ("The Battle of Kursk took place in", "1943"),
    ("The Warsaw Ghetto Uprising took place in", "1943"),
    ("D-Day, the landing in Normandy, was in the year", "1944"),
    ("The Allies landed in Normandy on June 6,", "1944"),
    ("The Battle of the Bulge began in December", "1944"),
    ("The plot to assassinate Hitler failed in July", "1944"),
    ("The Battle of the Philippine Sea took place in June", "1944"),
    ("The atomic bomb was dropped on Hiroshima in the year", "1945"),
    ("The Japanese surrender ended World War II in", "1945"),
    ("The Manhattan Project tested the first atomic bomb in July", "1945"),
    ("Adolf Hitler committed suicide in April", "1945"),
    ("The Second World War ended in", "1945"),
    ("The Second World War began in September", "1939"),
    ("The Munich Agreement was signed in September", "1938"),
    ("The Potsdam Conference was held in July", "1945"),
)
OTHER_TIMES: Facts = (
    ("The Korean War began in the year", "1950"),
    ("The Chinese People's Republic was founded in the year", "1949"),
    ("The Soviet Union was dissolved in the year", "1991"),
    ("The attack on the World Trade Center took place in the year", "2001"),
    ("The stock market crash that began the Great Depression was in the year", "1929"),
    ("The Russian Revolution took place in the year", "1917"),
    ("Archduke Franz Ferdinand was assassinated in June", "1914"),
    ("The Titanic sank in April", "1912"),
    ("The Spanish-American War took place in", "1898"),
    ("Albert Einstein was born in the year", "1879"),
    ("The American Civil War ended in the year", "1865"),
    ("The Battle of Gettysburg took place in the year", "1863"),
    ("Charles Darwin published On the Origin of Species in the year", "1859"),
    ("The Louisiana Purchase was made in the year", "1803"),
    ("The storming of the Bastille was in the year", "1789"),
    ("The American Declaration of Independence was signed in the year", "1776"),
)

NAMED = 8
"""Features that attribution names on each side."""
SPARED = 0.9
"""Share of the probability of the neighbours used for choosing that an edit must leave."""
CONTROLS, TEXT_CONTROLS, NEAREST = 20, 4, 16
PASSAGES, DATED_PASSAGES, REPLICATES = 24, 16, 2000
ROWS, DIGITS = 18, 4


OTHER_EVENTS = (
    "The Battle of Iwo Jima took place in",
    "The Battle of Okinawa took place in",
    "Japan surrendered to the Allies in August",
    "The atomic bomb was dropped on Nagasaki in",
    "Singapore fell to Japan in February",
    "Japan occupied the Philippines in",
    "Hawaii became a state of the United States in",
    "The Battle of Stalingrad began in",
    "The siege of Leningrad ended in January",
    "The Battle of Britain took place in",
    "Winston Churchill became Prime Minister in May",
    "The Battle of El Alamein took place in October",
    "The Wannsee Conference was held in January",
    "Italy surrendered to the Allies in September",
    "Benito Mussolini was executed in April",
    "The bombing of Dresden took place in",
)
"""None of them in 1941; the model is unsure of most."""

TEXTS = "texts with 1941 and with 1944"
PAD = 0
"""Stands behind the end of a text, where attention does not look; no prompt has it."""


@dataclass(frozen=True)
class Tried:
    family: str
    name: str
    changes: tuple[Intervention, ...]


NOTHING = Tried("none", "no edit", ())


@dataclass(frozen=True)
class Batch:
    """Texts whose activations at the hook point are known, and the positions whose predictions are wanted."""

    token_ids: torch.Tensor
    counted: torch.Tensor
    activations: torch.Tensor
    rows: torch.Tensor
    following: torch.Tensor
    """The tokens after the rows, in order."""


class Bench:
    """A model, its SAE, and the layers above the hook point: those below are the same under every edit."""

    def __init__(self, model: LanguageModel, sae: SAE) -> None:
        self.model, self.sae = model, sae
        self.upper = UpperLayers(model, HOOK)
        self.random = np.random.default_rng(0)
        self._batches: dict[Facts, Batch] = {}

    def edit(self, name: str, changes: Sequence[Intervention]) -> Edit:
        sae = self.sae if any(change.feature is not None for change in changes) else None
        return Edit.of(name, self.model, [Site(HOOK, changes, sae)])

    def log_probabilities(self, batch: Batch, changes: Sequence[Intervention]) -> torch.Tensor:
        """Return log p of the next token at the rows of a batch, with these changes at all its tokens."""
        x = batch.activations
        if changes:
            [site] = self.edit("", changes).sites
            flat = x.flatten(end_dim=1)
            x = (flat + site.change(flat, flat, [batch.counted.flatten()] * len(changes))).reshape(x.shape)
        return self.upper.logits(batch.token_ids, x, rows=batch.rows).log_softmax(dim=-1)

    # Dates

    def years(self, facts: Facts, changes: Sequence[Intervention] = ()) -> np.ndarray:
        """Return per fact p(year | prompt), p(the same with a 4 at the end), and 1 where greedy decoding gives it.

        A year is a token per digit after the space, and its probability is their product.
        """
        order = sorted(range(len(facts)), key=lambda number: len(self.model.tokenize(facts[number][0])))
        found = np.zeros((len(facts), 3))
        for start in range(0, len(order), ROWS):
            part = order[start : start + ROWS]
            batch = self._batch(tuple(facts[number] for number in part))
            found[part] = self._scored(self.log_probabilities(batch, changes), batch)
        return found

    def _batch(self, facts: Facts) -> Batch:
        if facts not in self._batches:
            texts = [self.model.tokenize(f"{prompt} {year}") for prompt, year in facts]
            token_ids = padded([text[:-1] for text in texts])
            counted = (token_ids != PAD) & (token_ids != self.model.bos_token_id)
            places, ends = torch.arange(token_ids.shape[1]), torch.tensor([[len(text) - 1] for text in texts])
            rows = (places >= ends - DIGITS) & (places < ends)
            following = torch.tensor([text[-DIGITS:] for text in texts]).flatten()
            activations = self.model.activations(token_ids, HOOK)
            self._batches[facts] = Batch(token_ids, counted, activations, rows, following)
        return self._batches[facts]

    def _scored(self, log_p: torch.Tensor, batch: Batch) -> np.ndarray:
        log_p, digits = log_p.view(-1, DIGITS, log_p.shape[-1]), batch.following.view(-1, DIGITS)
        each = log_p.gather(2, digits[:, :, None])[:, :, 0]
        rival = each[:, :-1].sum(dim=1) + log_p[:, -1, self.model.tokenize(WRONG)[-1]]
        greedy = (log_p.argmax(dim=2) == digits).all(dim=1)
        scores: np.ndarray = torch.stack([each.sum(dim=1).exp(), rival.exp(), greedy], dim=1).double().numpy()
        return scores

    def from_file(self, name: str, changes: Sequence[Intervention], facts: Facts) -> tuple[np.ndarray, int]:
        """Return `years` of the whole model under the edit that a file gives back, and the bytes of the file."""
        batch = self._batch(facts)
        with TemporaryDirectory() as folder:
            path = Path(folder) / "edit.json"
            save_edit(self.edit(name, changes), path)
            with apply_edits(self.model.hf_model, path):
                logits = self.model.logits(batch.token_ids)
            return self._scored(logits[batch.rows].log_softmax(dim=-1), batch), path.stat().st_size

    def passages(self, sequences: Sequences, numbers: np.ndarray) -> tuple[Batch, torch.Tensor]:
        """Return sequences of a corpus, and per row 1 where what follows is a digit of a year."""
        token_ids = torch.from_numpy(sequences.token_ids[numbers].astype(np.int64))
        counted = torch.from_numpy(sequences.counted[numbers])
        rows = torch.zeros_like(counted)
        rows[:, :-1] = counted[:, :-1] & counted[:, 1:]
        years = torch.stack([self._digits_of_years(row) for row in token_ids.tolist()])
        follow = rows.roll(1, dims=1)
        return Batch(token_ids, counted, self.model.activations(token_ids, HOOK), rows, token_ids[follow]), years[
            follow
        ]

    def with_dates(self, sequences: Sequences) -> np.ndarray:
        """Return the sequences of a corpus with the most years."""
        digits = [float(self._digits_of_years(row).sum()) for row in sequences.token_ids.tolist()]
        return np.argsort(-np.array(digits), kind="stable")[:DATED_PASSAGES]

    def _digits_of_years(self, token_ids: list[int]) -> torch.Tensor:
        """Return 1.0 at each digit of a run of exactly four that starts with 1 or 2; a digit is a token of its own."""
        vocabulary = self.model.token_bytes()
        digits = "".join(
            piece.decode() if len(piece) == 1 and piece.isdigit() else "."
            for piece in map(vocabulary.__getitem__, token_ids)
        )
        found = torch.zeros(len(token_ids))
        for year in re.finditer(r"(?<!\d)[12]\d{3}(?!\d)", digits):
            found[year.start() : year.end()] = 1.0
        return found

    # What is tried

    def named(self) -> list[dict[str, Any]]:
        """Return all features that are active in the prompts for choosing, with their attributions to 1 rather than 4.

        Attributions are of the last digit, summed over positions, and means over prompts.
        """
        right, wrong = (self.model.tokenize(year)[-1] for year in (RIGHT, WRONG))
        sums = np.zeros((3, self.sae.d_sae))
        prompts = (PROMPT, *CHOOSING)
        for prompt in prompts:
            ids = torch.tensor(self.model.tokenize(f"{prompt} {RIGHT[:3]}"))
            counted = np.array([int(token) != self.model.bos_token_id for token in ids])
            hooked = HookedSAE(self.sae, HOOK, HOOK)
            nodes = attribute(self.model, [hooked], ids, Target(right, wrong), counted=counted).nodes
            np.add.at(sums[0], nodes.features, nodes.attributions / len(prompts))
            np.add.at(sums[1], nodes.features, nodes.activations * nodes.scales)
            np.add.at(sums[2], nodes.features, 1)
        masses = sums[1] * torch.linalg.vector_norm(self.sae.W_dec, dim=1).numpy()
        return [
            {"feature": int(f), "attribution": float(sums[0, f]), "mass": float(masses[f]), "tokens": int(sums[2, f])}
            for f in np.argsort(sums[0])
            if sums[2, f]
        ]

    def directions(self) -> dict[str, torch.Tensor]:
        """Return three differences of mean activations, right date minus wrong date."""

        def mean(texts: Sequence[str]) -> torch.Tensor:
            rows = [self.model.tokenize(text) for text in texts]
            x = self.model.activations(padded(rows), HOOK)
            return torch.stack([own[len(row) - 1] for own, row in zip(x, rows, strict=True)]).mean(dim=0)

        texts = (PROMPT, *CHOOSING)
        begun = f" {RIGHT[:3]}"
        return {
            TEXTS: mean([f"{text} {RIGHT}" for text in texts]) - mean([f"{text} {WRONG}" for text in texts]),
            "prompts answered 1941 and 1944": mean([text + begun for text in ANSWERED_RIGHT])
            - mean([text + begun for text in texts]),
            "events of 1941 and of 1944": mean([text + begun for text in IN_1941])
            - mean([text + begun for text in IN_1944]),
        }

    def candidates(self, named: Sequence[dict[str, Any]]) -> Iterator[Tried]:
        against = [row["feature"] for row in named[:NAMED]]
        speak_for = [row["feature"] for row in named[::-1][:NAMED]]
        groups = [*[[f] for f in against], against[:2], against[:3], against[:4]]
        for group in groups:
            yield self._on("ablate", "ablate", group, 0.0)
        for group in [*[[f] for f in speak_for], speak_for[:2], speak_for[:3], speak_for[:4]]:
            for factor in (2.0, 4.0):
                yield self._on("scale", "scale", group, factor)
        for feature in speak_for:
            for value in (5.0, 10.0, 15.0):
                yield self._on("add decoder row", "add", [feature], value)
        for name, direction in self.directions().items():
            for value in (0.25, 0.5, 1.0):
                change = Intervention("add", value, direction=direction)
                yield Tried("add direction", f"{value:g} × ({name})", (change,))

    def _on(self, family: str, op: Any, features: Sequence[int], value: float) -> Tried:
        words = {"ablate": "ablate", "scale": f"scale by {value:g}", "add": f"add {value:g} ×"}[op]
        changes = tuple(Intervention(op, value, feature=feature) for feature in features)
        return Tried(family, f"{words} {', '.join(map(str, features))}", changes)

    def tried(self, named: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return what each edit does to the prompts and neighbours for choosing; pairs of the best five at the end."""
        first = [self._tried(edit) for edit in [NOTHING, *self.candidates(named)]]
        best = [row["edit"] for row in self.allowed(first) if row["edit"].family != "none"][:5]
        pairs = [
            Tried("two together", f"{a.name}; {b.name}", a.changes + b.changes)
            for a, b in combinations(best, 2)
            if not {c.feature for c in a.changes if c.feature is not None} & {c.feature for c in b.changes}
        ]
        return first + [self._tried(edit) for edit in pairs]

    def _tried(self, edit: Tried) -> dict[str, Any]:
        facts = dated(CHOOSING) + CHOOSING_NEIGHBOURS
        found = self.years(facts, edit.changes)
        own, others = found[: len(CHOOSING)], found[len(CHOOSING) :]
        return {
            "edit": edit,
            "right": float(own[:, 0].mean()),
            "wrong": float(own[:, 1].mean()),
            "greedy": int(own[:, 2].sum()),
            "neighbours": float(others[:, 0].mean()),
            "neighbours_greedy": int(others[:, 2].sum()),
        }

    @staticmethod
    def allowed(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the edits that spare the neighbours, best first; the first row is the unchanged model."""
        kept = [row for row in rows if row["neighbours"] >= SPARED * rows[0]["neighbours"]]
        return sorted(kept, key=lambda row: -row["right"])

    # Controls

    def control(self, edit: Tried, named: Sequence[dict[str, Any]]) -> tuple[Intervention, ...]:
        """Return the same done to others: features of like mass on the same prompts, directions of the same norm."""
        taken = {change.feature for change in edit.changes}
        changes = []
        for change in edit.changes:
            if change.direction is not None:
                noise = torch.from_numpy(self.random.standard_normal(len(change.direction))).float()
                like = noise / noise.norm() * change.direction.norm()
                changes.append(Intervention("add", change.value, direction=like))
                continue
            [mass] = [row["mass"] for row in named if row["feature"] == change.feature]
            others = [row for row in named if row["feature"] not in taken and row["mass"] > 0]
            others.sort(key=lambda row: abs(np.log(row["mass"] / mass)))
            feature = others[self.random.integers(NEAREST)]["feature"]
            taken.add(feature)
            changes.append(Intervention(change.op, change.value, feature=feature))
        return tuple(changes)


def padded(rows: Sequence[Sequence[int]]) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])


def dated(prompts: Sequence[str]) -> Facts:
    return tuple((prompt, RIGHT) for prompt in prompts)


# What is reported


def reported(bench: Bench, rows: Sequence[dict[str, Any]]) -> dict[str, Tried]:
    """Return the edits that are measured: one by the rule, and the two that one would try first."""
    return {
        "chosen": next(row["edit"] for row in bench.allowed(rows) if row["edit"] is not NOTHING),
        "the feature that attribution names first": rows[1]["edit"],
        "right texts less wrong texts": next(r["edit"] for r in rows if r["edit"].name == f"1 × ({TEXTS})"),
    }


def on_facts(bench: Bench, edit: Tried, controls: Sequence[tuple[Intervention, ...]]) -> dict[str, Any]:
    """Return the three figures, before and after, and what the controls do."""
    groups: dict[str, Facts] = {
        "prompt": dated((PROMPT,)),
        "paraphrases": dated(REPORTING),
        "same war": SAME_WAR,
        "other times": OTHER_TIMES,
        "1941 for others": dated(OTHER_EVENTS),
    }
    facts = tuple(fact for group in groups.values() for fact in group)
    before, after = bench.years(facts), bench.years(facts, edit.changes)
    others = np.stack([bench.years(facts, control) for control in controls])
    figures, start = {}, 0
    for name, group in groups.items():
        own = slice(start, start + len(group))
        start = own.stop
        change = after[own, 0] - before[own, 0]
        chance = (others[:, own, 0] - before[own, 0]).mean(axis=1)
        figures[name] = {
            "facts": len(group),
            "p_before": before[own, 0].mean(),
            "p_after": after[own, 0].mean(),
            "change": change.mean(),
            "interval": interval(change, np.ones(len(group))),
            "p_ending_in_4": [before[own, 1].mean(), after[own, 1].mean()],
            "greedy": [int(before[own, 2].sum()), int(after[own, 2].sum())],
            "control_change": chance.mean(),
            "control_range": [chance.min(), chance.max()],
            "controls_that_do_as_much": int((np.abs(chance) >= abs(change.mean())).sum()),
            "control_greedy": others[:, own, 2].sum(axis=1).mean(),
            "each": [[*fact, *row] for fact, row in zip(group, np.c_[before, after][own].tolist(), strict=True)],
        }
    some = dated((PROMPT, *REPORTING))
    from_file, size = bench.from_file(edit.name, edit.changes, some)
    away = np.abs(from_file[:, :2] - bench.years(some, edit.changes)[:, :2]).max()
    return {"facts": figures, "file_bytes": size, "file_differs_by": away}


def on_text(
    bench: Bench,
    sequences: Sequences,
    numbers: np.ndarray,
    edits: Mapping[str, Sequence[tuple[Intervention, ...]]],
) -> dict[str, Any]:
    """Return the rise of the loss and the KL on passages, of each edit (first of its list) and its controls."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in edits}
    for part in np.split(numbers, range(4, len(numbers), 4)):
        batch, in_year = bench.passages(sequences, part)
        clean = bench.log_probabilities(batch, ())
        for name, variants in edits.items():
            found[name].append(
                np.stack([_sums(clean, bench.log_probabilities(batch, v), batch, in_year) for v in variants])
            )
    result = {}
    for name, parts in found.items():
        table = np.concatenate(parts, axis=1)  # [variant, passage, kind, (tokens, loss, kl)]
        result[name] = {
            kind: {
                "tokens": int(table[0, :, which, 0].sum()),
                **{
                    what: {
                        "edit": table[0, :, which, column].sum() / table[0, :, which, 0].sum(),
                        "interval": interval(table[0, :, which, column], table[0, :, which, 0]),
                        "controls": (table[1:, :, which, column].sum(1) / table[1:, :, which, 0].sum(1)).tolist(),
                    }
                    for column, what in ((1, "loss"), (2, "kl"))
                },
            }
            for which, kind in enumerate(("all tokens", "digits of years"))
        }
    return {"passages": len(numbers), "edits": result}


def _sums(clean: torch.Tensor, log_q: torch.Tensor, batch: Batch, in_year: torch.Tensor) -> np.ndarray:
    """Return per passage, for all tokens and for digits of years: tokens, rise of the loss, KL; sums."""
    kl = (clean.exp() * (clean - log_q)).sum(dim=1)
    loss = (clean - log_q).gather(1, batch.following[:, None])[:, 0]
    passage = batch.rows.nonzero()[:, 0]
    columns = torch.stack([torch.ones_like(kl), loss, kl], dim=1).double()
    kinds = torch.stack([columns, columns * in_year[:, None]], dim=1)
    return torch.zeros(len(batch.rows), 2, 3, dtype=torch.float64).index_add_(0, passage, kinds).numpy()


def interval(values: np.ndarray, weights: np.ndarray) -> list[float]:
    """Return the 95 % bootstrap interval of Σ values / Σ weights over prompts or passages."""
    drawn = np.random.default_rng(0).integers(len(values), size=(REPLICATES, len(values)))
    replicates = values[drawn].sum(axis=1) / np.maximum(weights[drawn].sum(axis=1), 1)
    low, high = np.percentile(replicates, [2.5, 97.5])
    return [float(low), float(high)]


# From a home folder to tables


def open_home(home: Path) -> tuple[LanguageModel, SAE, Sequences]:
    """Return the demo's model, its SAE and the text that the SAE was trained on, held-out part included."""
    artifacts = home / "artifacts"
    folder = artifacts / "saes" / SAE_NAME
    made_from = json.loads((folder / "cfg.json").read_text(encoding="utf-8"))["metadata"]["seesae"]["sha256"]
    [model] = [path for path in (artifacts / "models").iterdir() if path.name.endswith(made_from["model"][:16])]
    texts = [Sequences.load(path) for path in (artifacts / "sequences").iterdir()]
    [sequences] = [text for text in texts if text.sha256 == made_from["sequences"]]
    return load_model(str(model), device="cpu"), load_sae(folder).for_inference(), sequences


def measure(home: Path) -> dict[str, Any]:
    model, sae, sequences = open_home(home)
    bench = Bench(model, sae)
    named = bench.named()
    rows = bench.tried(named)
    edits = reported(bench, rows)
    controls = {name: [bench.control(edit, named) for _ in range(CONTROLS)] for name, edit in edits.items()}
    facts = {name: on_facts(bench, edit, controls[name]) for name, edit in edits.items()}
    variants = {name: [edit.changes, *controls[name][:TEXT_CONTROLS]] for name, edit in edits.items()}
    held_out = np.flatnonzero(sequences.is_validation())[:PASSAGES]
    return {
        "sae": SAE_NAME,
        "active_features": len(named),
        "named_against": named[:NAMED],
        "named_for": named[::-1][:NAMED],
        "tried": [{**row, "family": row["edit"].family, "edit": row["edit"].name} for row in rows],
        "controls": CONTROLS,
        "reported": {name: {"edit": edits[name].name, **facts[name]} for name in edits},
        "text": {
            "held out": on_text(bench, sequences, held_out, variants),
            "with dates": on_text(bench, sequences, bench.with_dates(sequences), variants),
        },
    }


def tables(result: dict[str, Any]) -> Iterator[str]:
    for row in result["tried"]:
        yield (
            f"{row['family']:16} {row['edit']:60} {row['right']:.3f} {row['wrong']:.3f} {row['greedy']:2}  "
            f"neighbours {row['neighbours']:.3f} {row['neighbours_greedy']}"
        )
    for name, row in result["reported"].items():
        yield f"\n{name}: {row['edit']}; file of {row['file_bytes']:,} bytes, differs by {row['file_differs_by']:.1e}"
        for group, own in row["facts"].items():
            low, high = own["interval"]
            least, most = own["control_range"]
            yield (
                f"  {group:12} p {own['p_before']:.3f} → {own['p_after']:.3f}  {own['change']:+.3f} "
                f"({low:+.3f} to {high:+.3f})  controls {own['control_change']:+.3f} ({least:+.3f} to {most:+.3f}), "
                f"as much {own['controls_that_do_as_much']}  ending in 4 {own['p_ending_in_4'][0]:.3f} → "
                f"{own['p_ending_in_4'][1]:.3f}  greedy {own['greedy'][0]} → {own['greedy'][1]} of {own['facts']}, "
                f"controls {own['control_greedy']:.1f}"
            )
        for text, kind in (("held out", "all tokens"), ("with dates", "digits of years")):
            own = result["text"][text]["edits"][name][kind]
            for what in ("loss", "kl"):
                low, high = own[what]["interval"]
                others = own[what]["controls"]
                yield (
                    f"  {kind}, {own['tokens']}: {what} {own[what]['edit']:+.4f} ({low:+.4f} to {high:+.4f})  "
                    f"controls {np.mean(others):+.4f} ({min(others):+.4f} to {max(others):+.4f})"
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path, help="home folder of a finished demo")
    parser.add_argument("--json", type=Path, help="a file for all figures, with machine and date")
    arguments = parser.parse_args()
    began, where = time.monotonic(), machine()
    result = measure(arguments.home)
    seconds = round(time.monotonic() - began, 1)
    print("\n".join(tables(result)), f"\n\n{seconds} s")
    if arguments.json:
        said = {"date": datetime.now(UTC).date().isoformat(), "machine": where, "seconds": seconds, **result}
        arguments.json.write_text(json.dumps(said, indent=1, default=float) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
