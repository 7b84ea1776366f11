"""Delete an SAE, a model, a corpus, or the index of an SAE: what goes with it, what stays, and what forbids it.

The rows go in one transaction, which readers see whole or not at all. Files go afterwards, by a process that has them:
the command, or a worker (`app.storage`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy.ext.asyncio import AsyncSession

from app.artifacts import Artifacts, store_key
from app.errors import Conflict, NotFound
from app.paths import without_folder
from app.queries import deletions as queries
from app.queries.corpora import CorpusInfo
from app.queries.deletions import UsedBy
from app.queries.edits import edits_of_model
from app.queries.models import ModelInfo
from app.queries.monitors import monitors_of_model
from app.queries.saes import SaeDetail, get_sae
from app.services.saes import find_sae

Kind = Literal["sae", "model", "corpus", "index"]

_MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class Deletion:
    """The extent of a deletion."""

    kind: Kind
    name: str
    what: str
    """It in words, such as "the SAE tiny-l1"."""
    goes: tuple[str, ...]
    """Things that go with it, each a clause."""
    stays: tuple[str, ...]
    """Things that stay, each a sentence."""
    folders: tuple[str, ...]
    """Its folders under SEESAE_ARTIFACTS."""
    table_bytes: int
    labels: int = 0
    label_changes: int = 0
    """Of the SAE, so that a page can tell if labels were written since it asked."""
    freed: tuple[tuple[Kind, str], ...] = ()
    """Kind and name of what nothing else uses then."""


class InUse(Conflict):
    """Something else needs what was to be deleted."""

    title = "In use"


async def describe(session: AsyncSession, kind: Kind, name: str, artifacts: Artifacts) -> Deletion:
    """Return what deleting something would take with it.

    Raises:
        NotFound: there is no such thing.
        InUse: runs, SAEs or indexes use it; the message names them.
    """
    if kind == "model":
        return await _model(session, await _find_model(session, name), artifacts)
    if kind == "corpus":
        return await _corpus(session, await _find_corpus(session, name))
    sae = await find_sae(session, name)
    return await (_sae(session, sae) if kind == "sae" else _index(session, sae))


async def delete(
    session: AsyncSession, kind: Kind, name: str, artifacts: Artifacts, *, label_changes: int | None = None
) -> Deletion:
    """Delete the rows of something, and note its folders for removal; nothing changes if the session does not commit.

    Begin the transaction with this: see `queries.exclude_readers`.

    Raises:
        NotFound, InUse: as `describe`.
        Conflict: labels were written since the SAE had this number of `label_changes`.
        Unavailable: features are read or written for long.
    """
    await queries.exclude_readers(session)
    deletion = await describe(session, kind, name, artifacts)
    if label_changes is not None and deletion.label_changes != label_changes:
        raise Conflict(f"Labels of {deletion.name} were written since you asked to delete it. Look at them first.")
    if kind == "model":
        await queries.delete_model(session, (await _find_model(session, name)).id)
    elif kind == "corpus":
        await queries.delete_corpus(session, (await _find_corpus(session, name)).id)
    else:
        sae = await get_sae(session, name)
        assert sae is not None
        contents = await queries.sae_contents(session, sae.id)
        await (queries.delete_sae if kind == "sae" else queries.delete_indexes)(session, sae.id, contents.index_ids)
    await queries.leave_folders(session, deletion.folders)
    return deletion


async def _sae(session: AsyncSession, sae: SaeDetail) -> Deletion:
    await refuse_runs(session, f"the SAE {sae.slug}", [f"sae {sae.id}"], [sae.slug])
    contents = await queries.sae_contents(session, sae.id)
    goes = [f"its {_plural(sae.d_sae, 'feature')}" + ("" if sae.has_weights else ", which came without weights")]
    if contents.labels:
        goes.append(f"{_plural(contents.labels, 'label')} by {_plural(contents.authors, 'person', 'people')}")
    said = (
        (contents.label_sets, "label set"),
        (contents.decisions, "decision"),
        (contents.comments, "comment"),
        (contents.blind_tests, "blind test"),
    )
    goes += [_plural(number, what) for number, what in said if number]
    if contents.list_entries:
        goes.append(
            f"{_plural(contents.list_entries, 'entry', 'entries')} of {_plural(contents.lists, 'list')}, with notes"
        )
    if contents.compared_with:
        comparisons = _plural(len(contents.compared_with), "comparison")
        goes.append(f"{comparisons}, with {_names(contents.compared_with)}")
    if contents.saved_probes:
        goes.append(f"{_plural(contents.saved_probes, 'saved probe')}, with the links to them")
    if contents.readings:
        goes.append(
            f"its activations on {_plural(len(contents.readings), 'text set')}, and "
            f"{_plural(contents.text_comparisons, 'comparison')} of texts"
        )
    model = sae.model.name
    stays = [f"Its model {model} stays."]
    corpus = None if sae.index is None else sae.index.sequence_set.corpus
    if corpus is not None:
        stays = [f"Its model {model} and the text of its index, {corpus_name(corpus)}, stay."]
    if contents.edits:
        stays.append(
            f"{_plural(contents.edits, 'edit')} of its features stay, with the vectors that they need: they can be "
            "downloaded and applied, but not measured or opened in Steer any more."
        )
    if contents.monitors:
        stays.append(f"{_plural(contents.monitors, 'monitor')} made with it stay, and go on watching.")
    if contents.audits:
        stays.append(f"{_plural(contents.audits, 'audit')} made with it stay, without links to its features.")
    if contents.runs:
        stays.append(f"{_plural(contents.runs, 'run')} about it stay listed, without a link to it.")
    freed: list[tuple[Kind, str]] = []
    if await queries.saes_of_model(session, sae.model.id) == [sae.slug]:
        freed.append(("model", model))
    if corpus is not None and await queries.saes_indexed_on(session, corpus.id) == [sae.slug]:
        freed.append(("corpus", corpus_name(corpus)))
    return Deletion(
        "sae",
        sae.slug,
        f"the SAE {sae.slug}",
        tuple(goes),
        tuple(stays),
        (*_folders(sae, contents.sequences_sha256, whole=True), *(f"readings/{key}" for key in contents.readings)),
        contents.table_bytes,
        labels=contents.labels,
        label_changes=sae.label_changes,
        freed=tuple(freed),
    )


async def _index(session: AsyncSession, sae: SaeDetail) -> Deletion:
    if sae.index is None:
        raise NotFound(f"{sae.slug} has no index: there is nothing to delete.")
    await refuse_runs(session, f"the index of {sae.slug}", [f"sae {sae.id}"], [sae.slug])
    contents = await queries.sae_contents(session, sae.id)
    again = f" To make an index again: seesae index {sae.slug}" if sae.has_weights else ""
    return Deletion(
        "index",
        sae.slug,
        f"the index of {sae.slug}",
        (f"the statistics and examples of its {_plural(sae.indexed, 'feature')}, and their map",),
        (f"The SAE, its labels, list entries and comparisons stay.{again}",),
        _folders(sae, contents.sequences_sha256, whole=False),
        contents.table_bytes,
        label_changes=sae.label_changes,
    )


async def _model(session: AsyncSession, model: ModelInfo, artifacts: Artifacts) -> Deletion:
    _refuse_saes(f"the model {model.name}", await queries.saes_of_model(session, model.id), "are SAEs of it", "is one")
    await refuse_runs(session, f"the model {model.name}", [f"model {model.id}"], [model.name, model.source])
    packed = await queries.text_contents(session, model_id=model.id)
    goes = [f"its vocabulary of {_plural(model.vocab_size, 'token')}", *_packed(packed)]
    edits = await edits_of_model(session, model.id)
    if edits:
        goes.append(f"{_plural(edits, 'saved edit')} of it, with their prompts and measurements")
    stays = [f"Its files stay where it is loaded from, {without_folder(model.source)}."] if model.has_weights else []
    if monitors := await monitors_of_model(session, model.id):
        stays.append(
            f"{_plural(monitors, 'monitor')} of it stay, but cannot read texts here any more. Their files still run "
            "anywhere with this model."
        )
    folders = converted_folders(model, artifacts)
    return Deletion("model", model.name, f"the model {model.name}", tuple(goes), tuple(stays), folders, 0)


async def _corpus(session: AsyncSession, corpus: CorpusInfo) -> Deletion:
    name = corpus_name(corpus)
    users = await queries.saes_indexed_on(session, corpus.id)
    _refuse_saes(f"the corpus {name}", users, "are indexed on it", "is indexed on it", index=True)
    await refuse_runs(session, f"the corpus {name}", [f"corpus {corpus.id}"], [corpus.slug, corpus.source])
    packed = await queries.text_contents(session, corpus_id=corpus.id)
    stays = (f"Its files stay where it came from, {without_folder(corpus.source)}.",)
    goes = _packed(packed) or ["its title, source and licence"]
    return Deletion("corpus", name, f"the corpus {name}", tuple(goes), stays, (), 0)


def converted_folders(model: ModelInfo, artifacts: Artifacts) -> tuple[str, ...]:
    """Return the folders of a model that was converted from a file, as far as this machine has them."""
    converted = artifacts.converted_models(model.weights_sha256) if model.has_weights else []
    return tuple(f"{folder.parent.name}/{folder.name}" for folder in converted)


def corpus_name(corpus: CorpusInfo) -> str:
    """Return the name of a corpus, with its version where it is not the first."""
    return corpus.slug if corpus.version == 1 else f"{corpus.slug}:{corpus.version}"


async def _find_model(session: AsyncSession, name: str) -> ModelInfo:
    known = await queries.list_models(session)
    found = next((model for model in known if model.name == name), None)
    if found is None:
        raise _missing("model", name, [model.name for model in known])
    return found


async def _find_corpus(session: AsyncSession, name: str) -> CorpusInfo:
    known = await queries.list_corpora(session)
    found = next((corpus for corpus in known if corpus_name(corpus) == name), None)
    if found is None:
        raise _missing("corpus", name, [corpus_name(corpus) for corpus in known])
    return found


def _missing(kind: str, name: str, known: Sequence[str]) -> NotFound:
    others = f"There are: {_names(known)}." if known else "There are none."
    return NotFound(f"There is no {kind} “{name[:80]}”. {others}")


async def refuse_runs(session: AsyncSession, what: str, subjects: Sequence[str], names: Sequence[str]) -> None:
    """Refuse to delete what runs under way use, as `app.queries.deletions.runs_using` finds them.

    Raises:
        InUse: with the runs.
    """
    users: list[UsedBy] = await queries.runs_using(session, subjects, names)
    if users:
        shown = "; ".join(f"run {user.run_id} ({user.title}) is {user.state}" for user in users[:_MOST_NAMED])
        more = f"; and {len(users) - _MOST_NAMED} more" if len(users) > _MOST_NAMED else ""
        them = "it" if len(users) == 1 else "them"
        raise InUse(f"Runs under way use {what}: {shown}{more}. Cancel {them}, or wait for the end.")


def _refuse_saes(what: str, saes: Sequence[str], many: str, one: str, *, index: bool = False) -> None:
    if saes:
        first = f"Delete the SAE{'s' if len(saes) > 1 else ''} first"
        if index:
            first += ", or their indexes" if len(saes) > 1 else ", or its index"
        raise InUse(
            f"{what.capitalize()[:1]}{what[1:]} is in use: {_names(saes)} {one if len(saes) == 1 else many}. {first}."
        )


def _packed(packed: queries.TextContents) -> list[str]:
    goes = []
    if packed.sets:
        goes.append(f"{_plural(packed.sequences, 'sequence')} of packed text ({_plural(packed.tokens, 'token')})")
    if packed.comparisons:
        goes.append(f"{_plural(packed.comparisons, 'comparison')} of SAEs that were made on this text")
    return goes


def _folders(sae: SaeDetail, sequences: Sequence[str], *, whole: bool) -> tuple[str, ...]:
    """Return the folders of an SAE, `whole`, or of its indexes alone; one without weights has none."""
    if not sae.has_weights:
        return ()
    folders = [f"indexes/{store_key(sae, sha256)}" for sha256 in sequences]
    if whole:
        key = sae.config.get("training_key")
        folders += [sae.artifact, *([f"training/{key}"] if isinstance(key, str) else [])]
    return tuple(folders)


def _plural(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _names(names: Sequence[str]) -> str:
    shown = [*names[:_MOST_NAMED], *([f"{len(names) - _MOST_NAMED} more"] if len(names) > _MOST_NAMED else [])]
    return ", ".join(shown[:-1]) + (" and " if len(shown) > 1 else "") + shown[-1]
