"""The form of the steering page: what it holds, its address, and what it asks of the model."""

import re
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from struct import error as struct_error
from struct import unpack
from typing import Any, Literal, get_args
from urllib.parse import urlencode

from starlette.datastructures import FormData, QueryParams, UploadFile

from app.errors import Unprocessable
from app.queries.sql.pg_safe import MAX_INTEGER
from app.services.controls import Control
from app.services.generation import MAX_INTERVENTIONS, MAX_NEW_TOKENS, Change, Wish
from app.services.inference_messages import ChatMessage, DirectionChoice, InterventionChoice, TokenPositions
from app.services.texts import unix_lines
from app.services.vectors import finite, pack_vector, read_vector

Op = Literal["clamp", "add", "scale", "ablate"]
Mode = Literal["text", "chat"]
Where = Literal["all", "prompt", "generated", "tokens"]
DirectionKind = Literal["", "texts", "feature", "vector"]
DirectionOp = Literal["add", "scale", "ablate"]

MAX_VALUE = 1e6
_MAX_POSITION = 10_000
_RANGE = re.compile(r"(\d{1,6})(?:\s*[-–]\s*(\d{1,6}))?")


@dataclass(frozen=True, slots=True)
class Row:
    """One feature of the form and what to do with it, as it was written."""

    sae: str = ""
    """Slug; empty for the page's own."""
    feature: str = ""
    op: Op = "clamp"
    value: str = ""

    @property
    def number(self) -> int | None:
        """The feature; None where the field is empty.

        Raises:
            Unprocessable: it is not a number.
        """
        return _integer(self.feature, "A feature") if self.feature.strip() else None


@dataclass(frozen=True, slots=True)
class Direction:
    """The direction of the form."""

    kind: DirectionKind = ""
    op: DirectionOp = "add"
    value: str = ""
    feature: str = ""
    positive: str = ""
    negative: str = ""
    vector: str = ""
    """The numbers that were uploaded, as little-endian float32 in base64."""
    name: str = ""
    """Of the file."""

    def choice(self) -> DirectionChoice:
        """Return it for the inference process.

        Raises:
            Unprocessable: it is not complete.
        """
        if self.kind == "feature":
            if not self.feature.strip():
                raise Unprocessable("Give the number of the feature whose decoder row is the direction.")
            return DirectionChoice(feature=_integer(self.feature, "A feature"))
        if self.kind == "texts":
            return self.difference_of_means()
        if not self.vector:
            raise Unprocessable("Choose the safetensors file that holds the direction.")
        return DirectionChoice(vector=_unpacked(self.vector))

    def difference_of_means(self) -> DirectionChoice:
        """Return DiffMean of the two lists of texts.

        Raises:
            Unprocessable: one is empty.
        """
        positive, negative = (_lines(texts) for texts in (self.positive, self.negative))
        if not (positive and negative):
            raise Unprocessable(
                "DiffMean needs at least one text in both lists, under “A direction”: one text per line."
            )
        return DirectionChoice(positive=positive, negative=negative)


@dataclass(frozen=True, slots=True)
class SteerForm:
    """The values of the form."""

    mode: Mode = "text"
    text: str = ""
    turns: tuple[tuple[str, str], ...] = ()
    rows: tuple[Row, ...] = (Row(),)
    direction: Direction = field(default_factory=Direction)
    positions: Where = "all"
    at: str = ""
    """Chosen tokens, such as "2, 5-8"."""
    special: bool = False
    tokens: str = "30"
    temperature: str = "0"
    seed: str = "0"
    stop: str = ""
    """One text per line; \\n within one is a line break."""
    strengths: str = ""
    sweep_control: Literal["", "feature", "direction"] = "feature"

    @classmethod
    def read(cls, sent: FormData | QueryParams) -> "SteerForm":
        """Return what a browser sends, or an address names.

        Raises:
            Unprocessable: a choice is not one of those that the form has.
        """

        def every(name: str) -> list[str]:
            return [unix_lines(value) for value in sent.getlist(name) if isinstance(value, str)]

        def one(name: str, default: str = "") -> str:
            return next(iter(every(name)), default)

        def choice(name: str, kinds: Any, default: str) -> Any:
            value = one(name, default) or default
            if value not in get_args(kinds):
                raise Unprocessable(f"“{value[:40]}” is not a choice of “{name}”: use {', '.join(get_args(kinds))}.")
            return value

        features, ops = every("feature"), every("op")
        for op in ops:
            if op not in get_args(Op):
                raise Unprocessable(f"“{op[:40]}” is not an intervention: use {', '.join(get_args(Op))}.")
        columns = [_padded(column, len(features)) for column in (every("sae"), ops, every("value"))]
        rows = [
            Row(slug, feature, op or "clamp", value)
            for feature, slug, op, value in zip(features, *columns, strict=True)
        ]
        direction = Direction(
            choice("direction", DirectionKind, ""),
            choice("direction_op", DirectionOp, "add"),
            *(one(f"direction_{name}") for name in ("value", "feature")),
            *(one(name) for name in ("positive", "negative", "vector", "vector_name")),
        )
        return cls(
            mode=choice("mode", Mode, "text"),
            text=one("text"),
            turns=tuple(zip(every("role"), every("content"), strict=False)),
            rows=tuple(rows[:MAX_INTERVENTIONS]) or (Row(),),
            direction=direction,
            positions=choice("positions", Where, "all"),
            at=one("at"),
            special=one("special") != "",
            tokens=one("tokens", "30"),
            temperature=one("temperature", "0"),
            seed=one("seed", "0"),
            stop=one("stop"),
            strengths=one("strengths"),
            sweep_control=choice("sweep_control", Literal["", "feature", "direction"], "")
            if "sweep_control" in sent
            else "feature",
        )

    async def with_upload(self, sent: FormData) -> "SteerForm":
        """Return the form with the vector of its file, if one is sent.

        Raises:
            Unprocessable: the file holds no direction.
        """
        file = sent.get("vector_file")
        if not isinstance(file, UploadFile) or not file.filename:
            return self
        numbers = read_vector(await file.read())
        direction = replace(self.direction, kind="vector", vector=pack_vector(numbers), name=file.filename[:80])
        return replace(self, direction=direction)

    @property
    def fields(self) -> list[tuple[str, str]]:
        """Names and values with which the same is asked again; those with the default value are left out."""
        prompt = [("text", self.text)] if self.mode == "text" else [("mode", "chat")]
        if self.mode == "chat":
            prompt += [pair for role, content in self.turns for pair in (("role", role), ("content", content))]
        plain = len(self.rows) == 1 and not self.rows[0].sae
        rows = []
        for row in self.rows:
            values = [("sae", row.sae), ("feature", row.feature), ("op", row.op), ("value", row.value)]
            defaults = {("sae", ""), ("feature", ""), ("op", "clamp"), ("value", "")}
            rows += [pair for pair in values if not (plain and pair in defaults)]
        direction = self.direction
        named = {
            "direction": direction.kind,
            "direction_op": direction.op,
            "direction_value": direction.value,
            "direction_feature": direction.feature,
            "positive": direction.positive,
            "negative": direction.negative,
            "vector": direction.vector,
            "vector_name": direction.name,
            "positions": self.positions,
            "at": self.at,
            "special": "1" if self.special else "",
            "tokens": self.tokens,
            "temperature": self.temperature,
            "seed": self.seed,
            "stop": self.stop,
            "strengths": self.strengths,
            "sweep_control": self.sweep_control,
        }
        defaults_of = {
            "direction_op": "add",
            "positions": "all",
            "tokens": "30",
            "temperature": "0",
            "seed": "0",
            "sweep_control": "feature",
        }
        return [*prompt, *rows, *((name, value) for name, value in named.items() if value != defaults_of.get(name, ""))]

    def link(self, slug: str) -> str:
        """Return the page's address with these values; an uploaded vector is not in it."""
        given = [
            (name, value)
            for name, value in self.fields
            if not name.startswith("vector") and (name, value) != ("text", "")
        ]
        return f"/saes/{slug}/steer" + (f"?{urlencode(given)}" if given else "")

    def wish(self, defaults: Sequence[float]) -> Wish:
        """Return what is asked of the model.

        Args:
            defaults: a strength for each row that has none.

        Raises:
            Unprocessable: a field cannot be read, or there is nothing to change.
        """
        changes = [*self._features(defaults), *self._direction()]
        if not changes:
            raise Unprocessable("Choose a feature to change: its number, as its page names it.")
        chat = None
        if self.mode == "chat":
            written = [(role, content) for role, content in self.turns if content]
            chat = [ChatMessage(role=role[:40] or "user", content=content) for role, content in written]
        return Wish(
            text=self.text,
            chat=chat,
            interventions=changes,
            max_new_tokens=_integer(self.tokens, "The number of new tokens", least=1, most=MAX_NEW_TOKENS),
            temperature=_number(self.temperature, "A temperature", least=0, most=100),
            seed=_integer(self.seed, "A seed"),
            stop=[text.replace("\\n", "\n") for text in _lines(self.stop)][:8],
        )

    def _features(self, defaults: Sequence[float]) -> list[Change]:
        changes: list[Change] = []
        for row, default in zip(self.rows, defaults, strict=True):
            if row.number is None:
                continue
            value = _number(row.value, "A strength") if row.value.strip() else default
            choice = InterventionChoice(
                op=row.op, value=0.0 if row.op == "ablate" else value, feature=row.number, **self._place()
            )
            changes.append((row.sae or None, choice))
        return changes

    def _direction(self) -> list[Change]:
        if not self.direction.kind:
            return []
        if self.direction.op != "ablate" and not self.direction.value.strip():
            raise Unprocessable("Give the direction a strength.")
        value = 0.0 if self.direction.op == "ablate" else _number(self.direction.value, "A strength")
        choice = self.direction.choice()
        return [(None, InterventionChoice(op=self.direction.op, value=value, direction=choice, **self._place()))]

    def _place(self) -> dict[str, Any]:
        positions = chosen(self.at) if self.positions == "tokens" else self.positions
        return {"positions": positions, "special_tokens": self.special}

    def difference_of_means(self, wish: Wish) -> Wish:
        """Return the wish with DiffMean, added at the strength of its first intervention, in the place of all.

        Raises:
            Unprocessable: there is no such strength, or the lists are not complete.
        """
        first = wish.interventions[0][1]
        if first.op not in ("clamp", "add"):
            raise Unprocessable(
                "DiffMean is added at the feature's strength: choose “Set to” or “Add” for the feature."
            )
        choice = self.direction.difference_of_means()
        change = InterventionChoice(op="add", value=first.value, direction=choice, **self._place())
        return replace(wish, interventions=[(None, change)])

    def sweep_values(self, defaults: Sequence[float]) -> list[float]:
        """Return the strengths to sweep over.

        Raises:
            Unprocessable: one is not a number.
        """
        written = [part for part in re.split(r"[\s,;]+", self.strengths) if part]
        return [_number(part, "A strength") for part in written] or list(defaults)

    @property
    def control_of_sweep(self) -> Control | None:
        """The control that is swept beside it."""
        return self.sweep_control or None

    def toggled(self, position: str) -> "SteerForm":
        """Return the form with this token chosen, or not any more."""
        number = _integer(position, "A position")
        tokens = chosen_set(self.at) if self.positions == "tokens" else set()
        at = spelled(tokens ^ {number})
        return replace(self, positions="tokens" if at else "all", at=at)


def chosen_set(at: str) -> set[int]:
    """Return the positions that a text such as "2, 5-8" names.

    Raises:
        Unprocessable: it is not such a text.
    """
    tokens: set[int] = set()
    for part in re.split(r"[,;]", at) if at.strip() else []:
        match = _RANGE.fullmatch(part.strip())
        if match is None:
            raise Unprocessable(f"“{part.strip()[:40]}” are no positions: write numbers and ranges, such as 2, 5-8.")
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last <= _MAX_POSITION:
            raise Unprocessable(
                f"“{part.strip()[:40]}” is no range: it goes from the first to the last token, below 10,000."
            )
        tokens |= set(range(first, last + 1))
    return tokens


def chosen(at: str) -> tuple[int, int] | TokenPositions:
    """Return the positions that a text names, for the inference process; raises as `chosen_set`."""
    tokens = sorted(chosen_set(at))
    if not tokens:
        raise Unprocessable("No tokens are chosen: click some in the prompt, or write their positions, such as 2, 5-8.")
    if tokens == list(range(tokens[0], tokens[-1] + 1)):
        return tokens[0], tokens[-1] + 1
    return TokenPositions(tokens=tokens)


def spelled(tokens: set[int]) -> str:
    """Return the shortest text that names these positions: "2, 5-8"."""
    parts: list[list[int]] = []
    for token in sorted(tokens):
        if parts and parts[-1][-1] == token - 1:
            parts[-1].append(token)
        else:
            parts.append([token])
    return ", ".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)


def _padded(column: list[str], length: int) -> list[str]:
    return [*column[:length], *[""] * (length - len(column))]


def _lines(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.strip()]


def _unpacked(vector: str) -> list[float]:
    try:
        raw = b64decode(vector, validate=True)
        return finite(unpack(f"<{len(raw) // 4}f", raw))
    except (ValueError, struct_error):
        raise Unprocessable("The vector came back damaged: choose its file again.") from None


def _integer(text: str, name: str, *, least: int = 0, most: int = MAX_INTEGER) -> int:
    value = _number(text, name, least=least, most=most)
    if value != int(value):
        raise Unprocessable(f"{name} is a whole number, not {text.strip()[:20]}.")
    return int(text) if text.strip().isdecimal() else int(value)


def _number(text: str, name: str, *, least: float = -MAX_VALUE, most: float = MAX_VALUE) -> float:
    try:
        value = float(text)
    except ValueError:
        raise Unprocessable(f"{name} is a number, not “{text.strip()[:40]}”.") from None
    if not least <= value <= most:  # false for a value that is not a number
        raise Unprocessable(f"{name} is between {least:,.0f} and {most:,.0f}, not {text.strip()[:20]}.")
    return value
