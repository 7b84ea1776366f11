"""Lines of a file of labels with their history: one JSON object each, whose `record` says what it is.

People stand under their names. The file begins with the header; sets come before what is in them.
"""

import csv
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from app.errors import Unprocessable
from app.queries.sql.pg_safe import MAX_INTEGER, storable
from app.services.csv_text import plain_cell
from app.services.labels import MAX_CATEGORIES, MAX_CATEGORY, MAX_EXPLANATION, MAX_NAME
from app.services.texts import one_line
from app.settings import message_of
from app.tables.label_sets import Order

MAX_LINE = 4_000_000
_MAX_TEXT = 50_000
FIRST_YEAR = 1970
CLOCKS_DIFFER = timedelta(minutes=5)
"""How far the clock of the machine that wrote a file may be ahead."""
MAX_VERSION = 1_000_000
"""Far more than anybody writes, and far from where the database's numbers end."""
_READ = {"read": True}
"""Context of the lines of a file that is read: what is here already is written, whatever earlier files had."""


def _tidy(name: str) -> str:
    tidy = one_line(name)
    if not tidy:
        raise ValueError("A name must have something that can be seen")
    return tidy


def _in_utc(moment: datetime, info: ValidationInfo) -> datetime:
    """Refuse in a file what cannot be in UTC, or has not been yet: pages and exports could not show it."""
    if info.context != _READ:
        return moment
    try:
        utc = moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("A date must be one that UTC has") from None
    if utc.year < FIRST_YEAR:
        raise ValueError(f"A date cannot be before {FIRST_YEAR}")
    if utc > datetime.now(UTC) + CLOCKS_DIFFER:
        raise ValueError("A date cannot be in the future")
    return utc


def _in_reach(version: int, info: ValidationInfo) -> int:
    if info.context == _READ and version > MAX_VERSION:
        raise ValueError(f"A version is at most {MAX_VERSION:,}")
    return version


Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]
Name = Annotated[str, Field(max_length=MAX_NAME + 20), AfterValidator(_tidy)]
SetName = Annotated[str, Field(max_length=MAX_NAME), AfterValidator(_tidy)]
Scale = Annotated[int, Field(ge=1, le=5)] | None
Number = Annotated[int, Field(ge=1, le=MAX_INTEGER)]
Version = Annotated[Number, AfterValidator(_in_reach)]
Feature = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
Explanation = Annotated[str, Field(max_length=MAX_EXPLANATION)]
Categories = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=MAX_CATEGORY)], ...], Field(max_length=MAX_CATEGORIES)
]
Text = Annotated[str, Field(max_length=_MAX_TEXT)]
Status = Literal["draft", "submitted", "discarded"]


class Record(BaseModel):
    """Base of all lines: nothing unknown, so that nothing is lost unseen."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


class Header(Record):
    """What the file is about."""

    record: Literal["labels"] = "labels"
    format: Literal[1] = 1
    sae: str
    weights_sha256: str
    features: Feature
    index: str | None = None


class GuidelineRecord(Record):
    """A version of a guideline."""

    version: Version
    text: Text
    categories: Annotated[tuple[str, ...], Field(max_length=100)]
    person: Name
    created_at: Moment


class ScopeRecord(Record):
    """How the features of a set were chosen; nothing for a set that takes any."""

    any: bool | None = None
    filter: Annotated[dict[Text, Text], Field(max_length=100)] | None = None
    features: Feature | None = None
    list: Annotated[str, Field(max_length=100)] | None = None
    sample: Feature | None = None
    seed: Annotated[int, Field(ge=-MAX_INTEGER, le=MAX_INTEGER)] | None = None


class SetRecord(Record):
    """A label set with its guideline and its features, in its order."""

    record: Literal["set"] = "set"
    name: SetName
    needed: Annotated[int, Field(ge=1, le=1000)]
    blind: bool
    order: Order
    scope: ScopeRecord
    created_by: Name | None
    created_at: Moment
    closed_at: Moment | None
    guidelines: tuple[GuidelineRecord, ...] = ()
    features: tuple[Feature, ...] = ()

    @model_validator(mode="after")
    def _versions_once(self) -> Self:
        versions = [one.version for one in self.guidelines]
        if len(set(versions)) < len(versions):
            raise ValueError("A guideline has each of its versions once")
        return self


class Content(Record):
    """What a label says."""

    author: Name
    status: Status
    explanation: Explanation
    categories: Categories = ()
    interpretability: Scale = None
    confidence: Scale = None
    cant_tell: bool = False

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.status == "submitted" and not self.explanation.strip() and not self.cant_tell and not self.categories:
            raise ValueError("A submitted label needs an explanation")
        return self


class RevisionRecord(Content):
    """A label at one of its versions."""

    version: Version
    act: Annotated[str, Field(max_length=40)]
    person: Name
    guideline_version: Version | None = None
    index: str | None = None
    changed_at: Moment


class VoteRecord(Record):
    """A vote on a label."""

    person: Name
    value: Literal[-1, 1]
    voted_at: Moment


class LabelRecord(Content):
    """A label; without `revisions` (a row of CSV) it is a label's text alone."""

    record: Literal["label"] = "label"
    sae: Annotated[str | None, Field(max_length=200, exclude=True)] = None
    """The SAE that a row of a table names; lines of a history leave it to the header."""
    set: SetName = "default"
    feature: Feature
    person: Name
    version: Version = 1
    created_at: Moment | None = None
    updated_at: Moment | None = None
    revisions: Annotated[tuple[RevisionRecord, ...], Field(max_length=10_000)] = ()
    votes: Annotated[tuple[VoteRecord, ...], Field(max_length=10_000)] = ()

    @model_validator(mode="after")
    def _ends_with_itself(self) -> Self:
        versions = [revision.version for revision in self.revisions]
        if versions != sorted(set(versions)) or (versions and versions[-1] != self.version):
            raise ValueError("The revisions must be in order, and end with the label's own version")
        if self.revisions and content_of(self.revisions[-1]) != content_of(self):
            raise ValueError("The last revision must read as the label does")
        return self


class DecidedLabel(Record):
    """One of the labels that a decision was made between."""

    person: Name
    version: Version


class DecisionRecord(Record):
    """A decision."""

    record: Literal["decision"] = "decision"
    set: SetName
    feature: Feature
    person: Name
    explanation: Explanation
    categories: Categories = ()
    interpretability: Scale = None
    note: Text = ""
    labels: tuple[DecidedLabel, ...] = ()
    guideline_version: Version | None = None
    index: str | None = None
    decided_at: Moment

    @model_validator(mode="after")
    def _says_something(self, info: ValidationInfo) -> Self:
        if info.context == _READ and not self.explanation.strip() and not self.categories:
            raise ValueError("A decision needs an explanation")
        return self


class CommentRecord(Record):
    """A comment; `id` and `answers` are numbers within the file."""

    record: Literal["comment"] = "comment"
    id: Number
    answers: Number | None = None
    set: SetName
    feature: Feature
    person: Name
    text: Annotated[str, Field(max_length=2_000)]
    mentions: tuple[Name, ...] = ()
    created_at: Moment
    deleted_at: Moment | None = None

    @model_validator(mode="after")
    def _says_something(self, info: ValidationInfo) -> Self:
        if info.context == _READ and self.deleted_at is None and not self.text.strip():
            raise ValueError("A comment needs a text")
        return self


Line = Annotated[Header | SetRecord | LabelRecord | DecisionRecord | CommentRecord, Field(discriminator="record")]
_LINE: TypeAdapter[Line] = TypeAdapter(Line)
_OF_A_ROW = ("feature", "author", "explanation", "set", "categories", "interpretability", "confidence", "cant_tell")
_ROW = (*_OF_A_ROW, "sae", "status", "created_at", "updated_at")
_NEEDED = ("feature", "author", "explanation")


def content_of(of: Content) -> tuple[Any, ...]:
    """Return what is compared to tell whether two labels read alike."""
    return of.status, of.explanation, of.categories, of.interpretability, of.confidence, of.cant_tell


def read_jsonl(text: str) -> Iterator[tuple[int, Line]]:
    """Yield the records of a file with the numbers of their lines. A row of labels.jsonl is a label without history.

    Raises:
        Unprocessable: a line is not a record; the message says which, and why.
    """
    for number, line in enumerate(io.StringIO(text), 1):
        if not line.strip():
            continue
        if len(line) > MAX_LINE:
            raise Unprocessable(f"Line {number} has more than {MAX_LINE:,} characters.")
        try:
            given = json.loads(line)
        except (ValueError, RecursionError):
            raise Unprocessable(f"Line {number} is not JSON.") from None
        if not isinstance(given, dict):
            raise Unprocessable(f"Line {number} is not a JSON object.")
        if "record" not in given and set(_NEEDED) <= given.keys():
            given = _label({name: given[name] for name in _ROW if name in given})
        yield number, _validated(number, given)


def read_csv(text: str) -> Iterator[tuple[int, Line]]:
    """Yield the labels of a table with the numbers of their lines, as `labels.csv` has them.

    Columns: feature, author and explanation; others of `labels.csv` are read where they are, any more are skipped.

    Raises:
        Unprocessable: a column is missing, or a row is not a label.
    """
    rows = csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True)
    try:
        missing = [name for name in _NEEDED if name not in (rows.fieldnames or ())]
        if missing:
            raise Unprocessable(f"The table has no column {missing[0]}: its first line must name the columns.")
        for row in rows:
            given: dict[str, Any] = {name: plain_cell(row[name]) for name in _ROW if row.get(name)}
            given["categories"] = [part.strip() for part in given.get("categories", "").split(";") if part.strip()]
            given.setdefault("explanation", "")
            yield rows.line_num, _validated(rows.line_num, _label(given))
    except csv.Error:
        raise Unprocessable(f"Line {rows.line_num} is not CSV: a cell is too long or its quotes do not end.") from None


def _label(row: dict[str, Any]) -> dict[str, Any]:
    return {"status": "submitted", **row, "record": "label", "person": row.get("author", "")}


def _validated(number: int, given: dict[str, Any]) -> Line:
    if not _storable(given):
        raise Unprocessable(f"Line {number} holds NUL or broken characters: remove them.")
    try:
        return _LINE.validate_python(given, context=_READ)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:])[:80]
        raise Unprocessable(f"Line {number}: {place + ': ' if place else ''}{message_of(first)}.") from None


def _storable(value: Any) -> bool:
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, dict):
        return all(_storable(part) for pair in value.items() for part in pair)
    return all(_storable(part) for part in value) if isinstance(value, list | tuple) else True
