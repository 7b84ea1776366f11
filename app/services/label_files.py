"""Import files of labels: with all their history, as `label_history` writes it, or as a table.

People become names without accounts, unless an account is named for them. A file that is read twice changes nothing the
second time; one that contradicts what is there is refused as a whole.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy import func, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Conflict, NotFound, Unprocessable
from app.queries import label_files as queries
from app.queries.activity import Event, add_activity, count_changes
from app.queries.label_files import NO_ACCOUNT
from app.queries.label_sets import DEFAULT, ensure_set, insert_set
from app.queries.people import ensure_names
from app.queries.saes import SaeDetail
from app.queries.sql.locks import lock_until_commit
from app.queries.sql.visibility import Reader
from app.services.actors import Actor, ensure_person
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
    work = _Import(session, sae, *await _people(session, lines, accounts or {}))
    work.indexes = {hashed: number for number, hashed in (await queries.index_hashes(session, sae.id)).items()}
    await work.write_sets(lines)
    await work.write_labels(lines)
    await work.write_decisions(lines)
    await work.write_comments(lines)
    done = work.done
    if done.labels + done.changed + done.votes + done.decisions + done.comments:
        await count_changes(session, sae.id)
        person_id = await ensure_person(session, actor)
        await add_activity(session, Event(person_id, "labels imported", sae.id, next(iter(work.sets.values()))))
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


async def _people(
    session: AsyncSession, lines: Iterable[tuple[int, Line]], accounts: Mapping[str, str]
) -> tuple[dict[str, int], dict[str, str]]:
    """Return the ids of all people in the file, by name, and the names of their accounts; the others become names."""
    names = dict.fromkeys(name for _, record in lines for name in _names_in(record))
    wanted = {name: accounts[name] for name in names if name in accounts}
    found = await queries.accounts_named(session, list(wanted.values())) if wanted else {}
    for account in wanted.values():
        if account not in found:
            raise NotFound(f"There is no account named {account[:80]}.")
    # Where its account is given, a name is told from it by itself.
    plain = {name: name.removesuffix(NO_ACCOUNT) for name in names if name.removesuffix(NO_ACCOUNT) in wanted}
    others = {name: plain.get(name, name) for name in names if name not in wanted}
    ids = await ensure_names(session, list(others.values()))
    people = {name: ids[known] for name, known in others.items()}
    return (
        people | {name: found[account][0] for name, account in wanted.items()},
        {name: found[account][1] for name, account in wanted.items()},
    )


def _names_in(record: Line) -> Iterable[str]:
    if isinstance(record, SetRecord):
        yield from (one.person for one in record.guidelines)
        if record.created_by:
            yield record.created_by
    if isinstance(record, LabelRecord | DecisionRecord | CommentRecord):
        yield record.person
    if isinstance(record, LabelRecord):
        yield from (one.person for one in record.revisions)
        yield from (one.person for one in record.votes)
    if isinstance(record, DecisionRecord):
        yield from (one.person for one in record.labels)
    if isinstance(record, CommentRecord):
        yield from record.mentions


@dataclass(slots=True)
class _Import:
    """One import: what it knows of people, sets and indexes, and what it has done."""

    session: AsyncSession
    sae: SaeDetail
    people: Mapping[str, int]
    accounts: Mapping[str, str]
    sets: dict[str, int] = field(default_factory=dict)
    withheld: dict[int, bool] = field(default_factory=dict)
    indexes: dict[str, int] = field(default_factory=dict)
    labels: dict[tuple[int, int, int], int] = field(default_factory=dict)
    done: Imported = field(default_factory=Imported)

    async def write_sets(self, lines: Iterable[tuple[int, Line]]) -> None:
        """Write the sets that are missing, and what is missing of the others."""
        for number, record in lines:
            if isinstance(record, SetRecord):
                await self._write_set(number, record)
        named = {record.set for _, record in lines if isinstance(record, LabelRecord | DecisionRecord | CommentRecord)}
        for row in await queries.sets_of(self.session, self.sae.id):
            self.sets[row.name] = row.id
            self.withheld[row.id] = row.blind and row.closed_at is None
        if DEFAULT in named and DEFAULT not in self.sets:
            self.sets[DEFAULT] = (await ensure_set(self.session, self.sae.id)).id
        for number, record in lines:
            if isinstance(record, LabelRecord | DecisionRecord | CommentRecord) and record.set not in self.sets:
                raise Unprocessable(f"Line {number}: there is no label set “{record.set}”, in the file or of the SAE.")

    async def _write_set(self, number: int, record: SetRecord) -> None:
        scope = record.scope.model_dump(exclude_none=True)
        rules = (record.needed, record.blind, record.order, scope)
        there = next((row for row in await queries.sets_of(self.session, self.sae.id) if row.name == record.name), None)
        if there is None:
            made = await insert_set(
                self.session,
                self.sae.id,
                name=record.name,
                needed=record.needed,
                blind=record.blind,
                order=record.order,
                scope=scope,
                person_id=self.people[record.created_by] if record.created_by else None,
            )
            assert made is not None
            times = {"created_at": record.created_at, "closed_at": record.closed_at}
            await self.session.execute(update(LabelSet).where(LabelSet.id == made.id).values(times))
            set_id = made.id
            self.done.sets += 1
        else:
            set_id = there.id
            if rules != (there.needed, there.blind, there.label_order, there.scope):
                raise Conflict(f"Line {number}: the label set “{record.name}” has other rules here.")
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
                "person_id": self.people[one.person],
                "created_at": one.created_at,
            }
            for one in record.guidelines
            if one.version not in known
        ]
        await queries.insert_rows(self.session, Guideline, rows)
        await queries.put_sets_features(self.session, set_id, record.features)

    async def write_labels(self, lines: Iterable[tuple[int, Line]]) -> None:
        """Write labels that are missing and versions that follow; refuse a label that reads differently here."""
        there = await queries.labels_in(self.session, list(self.sets.values()))
        self.labels = {key: row.id for key, row in there.items()}
        histories = await queries.revisions_of(self.session, list(self.labels.values()), drafts=True)
        new: dict[tuple[int, int, int], tuple[int, LabelRecord]] = {}
        revisions: list[dict[str, Any]] = []
        votes: list[dict[str, Any]] = []
        given = [(number, record) for number, record in lines if isinstance(record, LabelRecord)]
        for number, record in given:
            key = (self.sets[record.set], record.feature, self.people[record.person])
            if key in new:
                raise Unprocessable(
                    f"Line {number}: {record.person} has labelled feature {record.feature} above already."
                )
            row = there.get(key)
            if row is None:
                new[key] = (number, record)
            else:
                revisions += await self._follow(number, record, row, histories[row.id])
        made = await queries.insert_labels(
            self.session, [self._label_row(key, record) for key, (_, record) in new.items()]
        )
        if len(made) < len(new):
            raise Conflict("Somebody labelled the same feature at this moment. Import the file again.")
        self.labels |= made
        self.done.labels = len(made)
        for key, (_, record) in new.items():
            revisions += [self._revision_row(made[key], one) for one in self._versions(record)]
        for _, record in given:
            label_id = self.labels[(self.sets[record.set], record.feature, self.people[record.person])]
            votes += [
                {
                    "label_id": label_id,
                    "person_id": self.people[vote.person],
                    "value": vote.value,
                    "voted_at": vote.voted_at,
                }
                for vote in record.votes
            ]
        await queries.insert_rows(self.session, LabelRevision, revisions)
        known = await queries.votes_of(self.session, list(self.labels.values()))
        voted = {(vote.label_id, vote.person_id) for rows in known.values() for vote in rows}
        votes = [vote for vote in votes if (vote["label_id"], vote["person_id"]) not in voted]
        await queries.insert_rows(self.session, LabelVote, votes)
        self.done.votes = len(votes)

    async def _follow(
        self, number: int, record: LabelRecord, row: Label, history: Sequence[LabelRevision]
    ) -> list[dict[str, Any]]:
        """Return the versions of a label that follow those that are here, after the label was brought to the last."""
        here = {one.version: _comparable(one) for one in history}
        if not record.revisions:
            same = content_of(record) == _comparable(row)
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
        content = {name: value for name, value in self._label_row((0, 0, 0), record).items() if name in CONTENT}
        values = {**content, "version": record.version, "updated_at": record.updated_at or func.now()}
        await self.session.execute(update(Label).where(Label.id == row.id).values(values))
        self.done.changed += 1
        return [self._revision_row(row.id, one) for one in following]

    def _versions(self, record: LabelRecord) -> Sequence[RevisionRecord]:
        if record.revisions:
            return record.revisions
        content = {name: getattr(record, name) for name in CONTENT}
        changed = record.updated_at or record.created_at
        return (
            RevisionRecord.model_construct(
                **content, version=record.version, act="imported", person=record.person, changed_at=changed
            ),
        )

    def _label_row(self, key: tuple[int, int, int], record: LabelRecord) -> dict[str, Any]:
        set_id, feature, person_id = key
        return {
            "sae_id": self.sae.id,
            "label_set_id": set_id,
            "feature": feature,
            "person_id": person_id,
            **{name: getattr(record, name) for name in CONTENT},
            "author": self.accounts.get(record.person, record.author),
            "categories": list(record.categories),
            "withheld": self.withheld.get(set_id, False),
            "version": record.version,
            "created_at": record.created_at or func.now(),
            "updated_at": record.updated_at or record.created_at or func.now(),
        }

    def _revision_row(self, label_id: int, one: RevisionRecord) -> dict[str, Any]:
        return {
            "label_id": label_id,
            "version": one.version,
            "person_id": self.people[one.person],
            "act": one.act,
            **{name: getattr(one, name) for name in CONTENT},
            "categories": list(one.categories),
            "guideline_version": one.guideline_version,
            "index_id": self.indexes.get(one.index or ""),
            "changed_at": one.changed_at or func.now(),
        }

    async def write_decisions(self, lines: Iterable[tuple[int, Line]]) -> None:
        """Write the decisions that are missing."""
        everything = Reader(sees_all=True)
        known = {
            (row.label_set_id, row.feature, row.person_id, row.decided_at, row.explanation)
            for row in await queries.decisions_of(self.session, list(self.sets.values()), reader=everything)
        }
        rows = []
        for record in (record for _, record in lines if isinstance(record, DecisionRecord)):
            set_id, person_id = self.sets[record.set], self.people[record.person]
            key = (set_id, record.feature, person_id, record.decided_at, record.explanation)
            if key in known:
                continue
            known.add(key)
            between = [
                [self.labels[label], one.version]
                for one in record.labels
                if (label := (set_id, record.feature, self.people[one.person])) in self.labels
            ]
            rows.append(
                {
                    "label_set_id": set_id,
                    "feature": record.feature,
                    "person_id": person_id,
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
        there = {
            (row.label_set_id, row.feature, row.person_id, row.created_at): row.id
            for row in await queries.comments_of(self.session, list(self.sets.values()), reader=everything)
        }
        ids: dict[int, int] = {}
        for number, record in lines:
            if not isinstance(record, CommentRecord):
                continue
            if record.answers is not None and record.answers not in ids:
                raise Unprocessable(f"Line {number}: the comment that it answers does not come before it.")
            key = (self.sets[record.set], record.feature, self.people[record.person], record.created_at)
            if key not in there:
                there[key] = await self._write_comment(record, ids.get(record.answers or 0))
                self.done.comments += 1
            ids[record.id] = there[key]

    async def _write_comment(self, record: CommentRecord, answers: int | None) -> int:
        row = Comment(
            label_set_id=self.sets[record.set],
            feature=record.feature,
            answers=answers,
            person_id=self.people[record.person],
            text=record.text,
            mentions=[self.people[name] for name in record.mentions],
            created_at=record.created_at,
            deleted_at=record.deleted_at,
        )
        self.session.add(row)
        await self.session.flush()
        return row.id


def _comparable(row: Label | LabelRevision) -> tuple[Any, ...]:
    return (
        row.status,
        row.explanation,
        tuple(row.categories),
        row.interpretability,
        row.confidence,
        row.cant_tell,
    )
