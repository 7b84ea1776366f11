"""Import files of labels: with all their history, as `label_history` writes it, or as a table.

People become names without accounts, unless an account is named for them. What is here already is recognised by its
moment and words, whoever's it is by now: a file that is read twice, or where it comes from, changes nothing. One that
contradicts what is there is refused as a whole.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import func, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Conflict, Unprocessable
from app.queries import label_files as queries
from app.queries.activity import Event, add_activity
from app.queries.label_sets import DEFAULT, ensure_set, insert_set, set_features
from app.queries.saes import SaeDetail
from app.queries.sql.locks import lock_until_commit
from app.queries.sql.visibility import Reader
from app.services.actors import Actor, ensure_person
from app.services.file_people import FilePeople, people_of
from app.services.label_records import (
    CommentRecord,
    DecisionRecord,
    Header,
    LabelRecord,
    Line,
    RevisionRecord,
    SetRecord,
    content_of,
    read_csv,
    read_jsonl,
)
from app.tables import Comment, Guideline, Label, LabelDecision, LabelRevision, LabelSet, LabelVote
from app.tables.labels import CONTENT

Format = Literal["jsonl", "csv"]


@dataclass(slots=True)
class Imported:
    """The number of rows that were written; `unchanged` are labels that were there already."""

    sets: int = 0
    labels: int = 0
    changed: int = 0
    unchanged: int = 0
    votes: int = 0
    decisions: int = 0
    comments: int = 0


def read_labels(text: str, format: Format) -> list[tuple[int, Line]]:
    """Return the records of a file with the numbers of their lines.

    Raises:
        Unprocessable: a line is not valid; nothing has been written.
    """
    lines = list(read_csv(text) if format == "csv" else read_jsonl(text))
    if not lines:
        raise Unprocessable("The file is empty.")
    return lines


def header_of(lines: Sequence[tuple[int, Line]]) -> Header | None:
    """Return the header of a file, None for a table of labels."""
    first = lines[0][1]
    return first if isinstance(first, Header) else None


def slug_of(lines: Sequence[tuple[int, Line]]) -> str | None:
    """Return the SAE that a file names, in its header or in the rows of a table; None if it names none.

    Raises:
        Unprocessable: its rows are of several SAEs.
    """
    slug = None
    for number, record in lines:
        named = record.sae if isinstance(record, Header | LabelRecord) else None
        if named and slug and named != slug:
            raise Unprocessable(f"Line {number} is of {named[:100]}, and others are of {slug[:100]}: split the file.")
        slug = slug or named
    return slug


async def import_labels(
    session: AsyncSession,
    sae: SaeDetail,
    lines: Sequence[tuple[int, Line]],
    *,
    actor: Actor,
    accounts: Mapping[str, str] | None = None,
    other_weights: bool = False,
) -> Imported:
    """Write what a file holds and the SAE has not; `accounts` are those that names of the file belong to.

    Raises:
        Conflict: the file is of other weights, or contradicts what is there.
        NotFound: there is no such account.
        Unprocessable: the SAE has no such feature, or a line refers to what the file does not have.
    """
    header = header_of(lines)
    if header and header.weights_sha256 != sae.weights_sha256 and not other_weights:
        raise Conflict(
            f"The file holds labels of {header.sae[:100]}, whose weights are not those of {sae.slug}. If its features "
            "mean the same nevertheless, say so with `other_weights`."
        )
    _check_features(lines, sae)
    await lock_until_commit(session, f"import labels {sae.id}")
    work = _Import(session, sae, await people_of(session, lines, accounts or {}))
    work.indexes = {hashed: number for number, hashed in (await queries.index_hashes(session, sae.id)).items()}
    await work.write_sets(lines)
    await work.write_labels(lines)
    await work.write_decisions(lines)
    await work.write_comments(lines)
    done = work.done
    if done.labels + done.changed + done.votes + done.decisions + done.comments:
        person_id = await ensure_person(session, actor)
        await add_activity(session, Event(person_id, "labels imported", sae.id, next(iter(work.sets.values())).id))
    return done


def _check_features(lines: Sequence[tuple[int, Line]], sae: SaeDetail) -> None:
    for number, record in lines:
        features: Iterable[int] = ()
        if isinstance(record, SetRecord):
            features = record.features
        elif not isinstance(record, Header):
            features = (record.feature,)
        if any(feature >= sae.d_sae for feature in features):
            raise Unprocessable(f"Line {number}: {sae.slug} has the features 0 to {sae.d_sae - 1} alone.")
        if isinstance(record, Header) and number != lines[0][0]:
            raise Unprocessable(f"Line {number}: a second header. Import one file after the other.")


@dataclass(slots=True)
class _Import:
    """One import: what it knows of people, sets and indexes, and what it has done."""

    session: AsyncSession
    sae: SaeDetail
    people: FilePeople
    sets: dict[str, LabelSet] = field(default_factory=dict)
    features: dict[str, frozenset[int]] = field(default_factory=dict)
    """Features of the sets that do not take any."""
    indexes: dict[str, int] = field(default_factory=dict)
    labels: dict[tuple[int, int, str], Label] = field(default_factory=dict)
    """Labels of the file that are here, by set, feature and the name in the file."""
    done: Imported = field(default_factory=Imported)

    # --- sets ------------------------------------------------------------------------------------------------------

    async def write_sets(self, lines: Iterable[tuple[int, Line]]) -> None:
        """Write the sets that are missing, and what is missing of the others."""
        for number, record in lines:
            if isinstance(record, SetRecord):
                await self._write_set(number, record)
        named = {record.set for _, record in lines if isinstance(record, LabelRecord | DecisionRecord | CommentRecord)}
        if DEFAULT in named:
            await ensure_set(self.session, self.sae.id)
        self.sets = {row.name: row for row in await queries.sets_of(self.session, self.sae.id)}
        for name in named & self.sets.keys():
            if self.sets[name].scope:
                self.features[name] = frozenset(await set_features(self.session, self.sets[name].id))
        for number, record in lines:
            if isinstance(record, LabelRecord | DecisionRecord | CommentRecord) and record.set not in self.sets:
                raise Unprocessable(f"Line {number}: there is no label set “{record.set}”, in the file or of the SAE.")

    async def _write_set(self, number: int, record: SetRecord) -> None:
        here = await queries.sets_of(self.session, self.sae.id)
        there = next((row for row in here if row.name == record.name), None)
        if there is None:
            alike = next((row.name for row in here if row.name.casefold() == record.name.casefold()), None)
            if alike is not None:
                raise Conflict(
                    f"Line {number}: the label set “{record.name}” would stand beside “{alike}”, which differs in case "
                    "alone: write its name as it is here."
                )
            set_id = await self._make_set(record)
        else:
            set_id = there.id
            await self._check_set(number, record, there)
        known = {
            one.version: (one.text, tuple(one.categories)) for one in await queries.guidelines_of(self.session, set_id)
        }
        for one in record.guidelines:
            if known.get(one.version, (one.text, one.categories)) != (one.text, one.categories):
                raise Conflict(f"Line {number}: version {one.version} of its guideline reads differently here.")
        rows = [
            {
                "set_id": set_id,
                "version": one.version,
                "text": one.text,
                "categories": list(one.categories),
                "person_id": await self.people.ensure(one.person),
                "created_at": one.created_at,
            }
            for one in record.guidelines
            if one.version not in known
        ]
        await queries.insert_rows(self.session, Guideline, rows)

    async def _make_set(self, record: SetRecord) -> int:
        made = await insert_set(
            self.session,
            self.sae.id,
            name=record.name,
            needed=record.needed,
            blind=record.blind,
            order=record.order,
            scope=record.scope.model_dump(exclude_none=True),
            person_id=await self.people.ensure(record.created_by) if record.created_by else None,
        )
        assert made is not None
        times = {"created_at": record.created_at, "closed_at": record.closed_at}
        await self.session.execute(update(LabelSet).where(LabelSet.id == made.id).values(times))
        await queries.insert_set_features(self.session, made.id, record.features)
        self.done.sets += 1
        return made.id

    async def _check_set(self, number: int, record: SetRecord, there: LabelSet) -> None:
        """Refuse a set that is here with other rules, or about other features: those of a set stay."""
        scope = record.scope.model_dump(exclude_none=True)
        if (record.needed, record.blind, record.order, scope) != (
            there.needed,
            there.blind,
            there.label_order,
            there.scope,
        ):
            raise Conflict(f"Line {number}: the label set “{record.name}” has other rules here.")
        if scope and set(record.features) != set(await set_features(self.session, there.id)):
            raise Conflict(f"Line {number}: the label set “{record.name}” is about other features here, which stay.")

    def _check_in_set(self, number: int, record: LabelRecord | DecisionRecord) -> None:
        if record.feature not in self.features.get(record.set, (record.feature,)):
            raise Unprocessable(f"Line {number}: the label set “{record.set}” is not about feature {record.feature}.")

    # --- labels ----------------------------------------------------------------------------------------------------

    async def write_labels(self, lines: Iterable[tuple[int, Line]]) -> None:
        """Write labels that are missing and versions that follow; refuse a label that reads differently here."""
        there = await queries.labels_in(self.session, [row.id for row in self.sets.values()])
        histories = await queries.revisions_of(self.session, [row.id for row in there.values()], drafts=True)
        here = _LabelsHere(there, histories)
        given = [(number, record) for number, record in lines if isinstance(record, LabelRecord)]
        new: dict[tuple[int, int, int], tuple[int, LabelRecord]] = {}
        seen: set[int] = set()
        revisions: list[dict[str, Any]] = []
        for number, record in given:
            set_id = self.sets[record.set].id
            row = here.find(set_id, record, self.people.find(record.person))
            if row is None:
                self._check_in_set(number, record)
                key = (set_id, record.feature, await self.people.ensure(record.person))
                is_double = key in new
                new[key] = (number, record)
            else:
                is_double = row.id in seen
                seen.add(row.id)
                self.labels[set_id, record.feature, record.person] = row
            if is_double:
                raise Unprocessable(
                    f"Line {number}: {record.person} has labelled feature {record.feature} above already."
                )
            if row is not None:
                revisions += await self._follow(number, record, row, histories[row.id])
        await queries.insert_labels(self.session, [self._label_row(key, record) for key, (_, record) in new.items()])
        made = await queries.labels_in(self.session, [row.id for row in self.sets.values()]) if new else there
        if len(made) < len(there) + len(new):
            raise Conflict("Somebody labelled the same feature at this moment. Import the file again.")
        self.done.labels = len(new)
        for key, (_, record) in new.items():
            self.labels[key[0], key[1], record.person] = made[key]
            revisions += [await self._revision_row(made[key].id, one) for one in _versions(record)]
        await queries.insert_rows(self.session, LabelRevision, revisions)
        names: dict[int | None, list[str]] = defaultdict(list)
        for name in self.people.in_file:
            names[self.people.find(name)].append(name)
        for key, row in made.items():  # decisions may name labels that the file does not have
            for name in names[key[2]]:
                self.labels.setdefault((key[0], key[1], name), row)
        await self._write_votes(given)

    async def _follow(
        self, number: int, record: LabelRecord, row: Label, history: Sequence[LabelRevision]
    ) -> list[dict[str, Any]]:
        """Return the versions of a label that follow those that are here, after the label was brought to the last."""
        here = {one.version: _comparable(one) for one in history}
        if not record.revisions:
            same = content_of(record) in here.values() or content_of(record) == _comparable(row)
        else:
            same = all(here.get(one.version, content_of(one)) == content_of(one) for one in record.revisions)
        if not same:
            raise Conflict(
                f"Line {number}: {record.person}'s label of feature {record.feature} in “{record.set}” reads "
                "differently here. Nothing was imported."
            )
        following = [one for one in record.revisions if one.version > row.version]
        if not following:
            self.done.unchanged += 1
            return []
        if row.person_id != self.people.find(record.person):
            raise Conflict(
                f"Line {number}: {record.person}'s label of feature {record.feature} in “{record.set}” is here under "
                f"{row.author}, and the file has newer versions of it. If the name is that account's, say so: "
                "`seesae import-labels FILE --person NAME=ACCOUNT`."
            )
        content = {name: value for name, value in self._label_row((0, 0, 0), record).items() if name in CONTENT}
        values = {**content, "version": record.version, "updated_at": record.updated_at or func.now()}
        await self.session.execute(update(Label).where(Label.id == row.id).values(values))
        self.done.changed += 1
        return [await self._revision_row(row.id, one) for one in following]

    def _label_row(self, key: tuple[int, int, int], record: LabelRecord) -> dict[str, Any]:
        set_id, feature, person_id = key
        of = self.sets[record.set]
        return {
            "sae_id": self.sae.id,
            "label_set_id": set_id,
            "feature": feature,
            "person_id": person_id,
            **{name: getattr(record, name) for name in CONTENT},
            "author": self.people.author(record),
            "categories": list(record.categories),
            "withheld": of.blind and of.closed_at is None,
            "version": record.version,
            "created_at": record.created_at or func.now(),
            "updated_at": record.updated_at or record.created_at or func.now(),
        }

    async def _revision_row(self, label_id: int, one: RevisionRecord) -> dict[str, Any]:
        return {
            "label_id": label_id,
            "version": one.version,
            "person_id": await self.people.ensure(one.person),
            "act": one.act,
            **{name: getattr(one, name) for name in CONTENT},
            "categories": list(one.categories),
            "guideline_version": one.guideline_version,
            "index_id": self.indexes.get(one.index or ""),
            "changed_at": one.changed_at or func.now(),
        }

    async def _write_votes(self, given: Iterable[tuple[int, LabelRecord]]) -> None:
        """Write the votes that are missing: nobody has two on a label, nor one on their own."""
        known = await queries.votes_of(self.session, [row.id for row in self.labels.values()])
        rows = []
        for number, record in given:
            label = self.labels[self.sets[record.set].id, record.feature, record.person]
            there = known.get(label.id, [])
            for vote in record.votes:
                person_id = self.people.find(vote.person)
                if any(
                    one.person_id == person_id or (one.voted_at, one.value) == (vote.voted_at, vote.value)
                    for one in there
                ):
                    continue
                if vote.person == record.person or person_id == label.person_id:
                    raise Unprocessable(f"Line {number}: {vote.person} votes on a label of their own: others vote.")
                rows.append(
                    {
                        "label_id": label.id,
                        "person_id": await self.people.ensure(vote.person),
                        "value": vote.value,
                        "voted_at": vote.voted_at,
                    }
                )
        await queries.insert_rows(self.session, LabelVote, rows)
        self.done.votes = len(rows)

    # --- decisions and comments ------------------------------------------------------------------------------------

    async def write_decisions(self, lines: Iterable[tuple[int, Line]]) -> None:
        """Write the decisions that are missing. One that was made at the same moment with the same words is here."""
        everything = Reader(sees_all=True)
        known = {
            (row.label_set_id, row.feature, row.decided_at, row.explanation)
            for row in await queries.decisions_of(
                self.session, [row.id for row in self.sets.values()], reader=everything
            )
        }
        rows = []
        for number, record in lines:
            if not isinstance(record, DecisionRecord):
                continue
            set_id = self.sets[record.set].id
            key = (set_id, record.feature, record.decided_at, record.explanation)
            if key in known:
                continue
            self._check_in_set(number, record)
            known.add(key)
            between = [
                [label.id, one.version]
                for one in record.labels
                if (label := self.labels.get((set_id, record.feature, one.person)))
            ]
            rows.append(
                {
                    "label_set_id": set_id,
                    "feature": record.feature,
                    "person_id": await self.people.ensure(record.person),
                    "explanation": record.explanation,
                    "categories": list(record.categories),
                    "interpretability": record.interpretability,
                    "note": record.note,
                    "labels": between,
                    "guideline_version": record.guideline_version,
                    "index_id": self.indexes.get(record.index or ""),
                    "decided_at": record.decided_at,
                }
            )
        await queries.insert_rows(self.session, LabelDecision, rows)
        self.done.decisions = len(rows)

    async def write_comments(self, lines: Iterable[tuple[int, Line]]) -> None:
        """Write the comments that are missing, those that are answered before their answers."""
        everything = Reader(sees_all=True)
        there: dict[tuple[int, int, datetime], list[Comment]] = defaultdict(list)
        for row in await queries.comments_of(self.session, [row.id for row in self.sets.values()], reader=everything):
            there[row.label_set_id, row.feature, row.created_at].append(row)
        read: dict[int, tuple[CommentRecord, int]] = {}
        for number, record in lines:
            if not isinstance(record, CommentRecord):
                continue
            if record.id in read:
                raise Unprocessable(f"Line {number}: a comment above has the number {record.id} already.")
            answered = None if record.answers is None else read.get(record.answers)
            if record.answers is not None:
                _check_answer(number, record, answered[0] if answered else None)
            same = there[self.sets[record.set].id, record.feature, record.created_at]
            here = _comment_here(record, same, self.people.find(record.person))
            if here is None:
                here = await self._write_comment(record, answered[1] if answered else None)
                self.done.comments += 1
            else:
                same.remove(here)
            read[record.id] = (record, here.id)

    async def _write_comment(self, record: CommentRecord, answers: int | None) -> Comment:
        row = Comment(
            label_set_id=self.sets[record.set].id,
            feature=record.feature,
            answers=answers,
            person_id=await self.people.ensure(record.person),
            text=record.text,
            mentions=[await self.people.ensure(name) for name in record.mentions],
            created_at=record.created_at,
            deleted_at=record.deleted_at,
        )
        self.session.add(row)
        await self.session.flush()
        return row


class _LabelsHere:
    """The labels of some sets, in which those of a file are found again under whatever name they have by now."""

    def __init__(
        self, labels: Mapping[tuple[int, int, int], Label], histories: Mapping[int, Sequence[LabelRevision]]
    ) -> None:
        self._labels = labels
        self._histories = histories
        self._of_feature: dict[tuple[int, int], list[Label]] = defaultdict(list)
        for (set_id, feature, _), row in labels.items():
            self._of_feature[set_id, feature].append(row)

    def find(self, set_id: int, record: LabelRecord, person_id: int | None) -> Label | None:
        """Return the label that `record` is: one with a version of it, else that of the person whom its name means."""
        same = (row for row in self._of_feature[set_id, record.feature] if self._is_same(record, row))
        own = None if person_id is None else self._labels.get((set_id, record.feature, person_id))
        return next(same, own)

    def _is_same(self, record: LabelRecord, row: Label) -> bool:
        """True if both have a version of one author and moment; without moments, of one author and text."""
        if record.created_at not in (None, row.created_at):
            return False
        history: tuple[Label | LabelRevision, ...] = (row, *self._histories.get(row.id, ()))
        if record.created_at is None and not record.revisions:
            return (record.author, content_of(record)) in {(one.author, _comparable(one)) for one in history}
        if not record.revisions:
            return any(one.author == record.author for one in history)
        here = {(one.version, one.author, one.changed_at) for one in history if isinstance(one, LabelRevision)}
        return any((one.version, one.author, one.changed_at) in here for one in record.revisions)


def _comment_here(record: CommentRecord, same: Sequence[Comment], person_id: int | None) -> Comment | None:
    """Return the comment of this moment that `record` is: one with its text, or of its person, or deleted since."""
    alike = [row for row in same if row.text == record.text]
    alike += [row for row in same if row.person_id == person_id or row.deleted_at is not None]
    return next(iter(alike), None)


def _check_answer(number: int, record: CommentRecord, answered: CommentRecord | None) -> None:
    if answered is None:
        raise Unprocessable(f"Line {number}: the comment that it answers does not come before it.")
    if (answered.set, answered.feature) != (record.set, record.feature):
        raise Unprocessable(f"Line {number}: the comment that it answers is on another feature, or in another set.")
    if answered.answers is not None:
        raise Unprocessable(f"Line {number}: it answers an answer: name the first comment of the thread.")


def _versions(record: LabelRecord) -> Sequence[RevisionRecord]:
    if record.revisions:
        return record.revisions
    content = {name: getattr(record, name) for name in CONTENT}
    changed = record.updated_at or record.created_at
    return (
        RevisionRecord.model_construct(
            **content, version=record.version, act="imported", person=record.person, changed_at=changed
        ),
    )


def _comparable(row: Label | LabelRevision) -> tuple[Any, ...]:
    return (
        row.status,
        row.explanation,
        tuple(row.categories),
        row.interpretability,
        row.confidence,
        row.cant_tell,
    )
