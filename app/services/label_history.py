"""Labels of an SAE with all their history, as records of a file. Drafts are their author's alone and stay."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from app.queries import label_files as queries
from app.queries.label_sets import set_features
from app.queries.saes import SaeDetail
from app.queries.sql.visibility import Reader
from app.services.label_records import (
    CommentRecord,
    DecidedLabel,
    DecisionRecord,
    GuidelineRecord,
    Header,
    LabelRecord,
    Record,
    RevisionRecord,
    ScopeRecord,
    SetRecord,
    VoteRecord,
)
from app.tables import Label, LabelRevision, LabelSet
from app.tables.labels import CONTENT

_BATCH = 500


async def history_records(session: AsyncSession, sae: SaeDetail, *, reader: Reader) -> AsyncIterator[Record]:
    """Yield what `reader` may see of the labels of an SAE: sets, labels with their versions, decisions, comments."""
    people = await queries.people_names(session)
    indexes = await queries.index_hashes(session, sae.id)
    current = indexes.get(sae.index.id) if sae.index else None
    yield Header(sae=sae.slug, weights_sha256=sae.weights_sha256, features=sae.d_sae, index=current)
    sets = await queries.sets_of(session, sae.id)
    names = {row.id: row.name for row in sets}
    for row in sets:
        yield await _set_record(session, row, people)
    last = 0
    while labels := await queries.labels_after(session, sae.id, last, reader=reader, limit=_BATCH):
        ids = [label.id for label in labels]
        revisions, votes = await queries.revisions_of(session, ids), await queries.votes_of(session, ids)
        for label in labels:
            yield LabelRecord(
                set=names[label.label_set_id],
                feature=label.feature,
                person=people[label.person_id],
                **_content(label),
                version=label.version,
                created_at=label.created_at,
                updated_at=label.updated_at,
                revisions=tuple(_revision_record(row, people, indexes) for row in revisions[label.id]),
                votes=tuple(
                    VoteRecord(person=people[vote.person_id], value=vote.value, voted_at=vote.voted_at)  # type: ignore[arg-type]
                    for vote in votes[label.id]
                ),
            )
        last = ids[-1]
    decisions = await queries.decisions_of(session, list(names), reader=reader)
    owners = await queries.owners_of(session, [label for decision in decisions for label, _ in decision.labels])
    for decision in decisions:
        yield DecisionRecord(
            set=names[decision.label_set_id],
            feature=decision.feature,
            person=people[decision.person_id],
            explanation=decision.explanation,
            categories=tuple(decision.categories),
            interpretability=decision.interpretability,
            note=decision.note,
            labels=tuple(
                DecidedLabel(person=people[owners[label]], version=version)
                for label, version in decision.labels
                if label in owners
            ),
            guideline_version=decision.guideline_version,
            index=indexes.get(decision.index_id or 0),
            decided_at=decision.decided_at,
        )
    comments = await queries.comments_of(session, list(names), reader=reader)
    numbers = {comment.id: number for number, comment in enumerate(comments, 1)}
    for comment in comments:
        yield CommentRecord(
            id=numbers[comment.id],
            answers=numbers.get(comment.answers or 0),
            set=names[comment.label_set_id],
            feature=comment.feature,
            person=people[comment.person_id],
            text=comment.text,
            mentions=tuple(people[person] for person in comment.mentions if person in people),
            created_at=comment.created_at,
            deleted_at=comment.deleted_at,
        )


async def _set_record(session: AsyncSession, row: LabelSet, people: Mapping[int, str]) -> SetRecord:
    return SetRecord(
        name=row.name,
        needed=row.needed,
        blind=row.blind,
        order=row.label_order,
        scope=ScopeRecord.model_validate(row.scope),
        created_by=people.get(row.created_by or 0),
        created_at=row.created_at,
        closed_at=row.closed_at,
        guidelines=tuple(
            GuidelineRecord(
                version=one.version,
                text=one.text,
                categories=tuple(one.categories),
                person=people[one.person_id],
                created_at=one.created_at,
            )
            for one in await queries.guidelines_of(session, row.id)
        ),
        features=tuple(await set_features(session, row.id)),
    )


def _revision_record(row: LabelRevision, people: Mapping[int, str], indexes: Mapping[int, str]) -> RevisionRecord:
    return RevisionRecord(
        **_content(row),
        version=row.version,
        act=row.act,
        person=people[row.person_id],
        guideline_version=row.guideline_version,
        index=indexes.get(row.index_id or 0),
        changed_at=row.changed_at,
    )


def _content(row: Label | LabelRevision) -> dict[str, Any]:
    return {name: getattr(row, name) for name in CONTENT} | {"categories": tuple(row.categories)}
