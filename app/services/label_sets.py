"""Rules of label sets: who labels which features, by which guideline, and when others' labels show.

A set's features are chosen once, when it is made, and stay: what people are asked to label does not change under them.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Conflict, Forbidden, NotFound, Unprocessable
from app.queries import label_sets as queries
from app.queries.activity import Event, add_activity
from app.queries.feature_list import filtered_features
from app.queries.label_sets import DEFAULT, LabelSetSummary, LabelSetView
from app.queries.lists import get_list, list_items
from app.queries.people import find_people
from app.queries.saes import SaeDetail, get_sae
from app.queries.sql.pg_safe import storable
from app.services.actors import Actor, Role, ensure_person
from app.services.feature_filters import read_filter
from app.services.labels import MAX_CATEGORIES, MAX_CATEGORY, tidy_name
from app.services.texts import one_line, trim, unix_lines
from app.tables.label_sets import ORDERS

MAX_FEATURES = 50_000
"""Features in a set. Nobody labels more, and a sample of a larger SAE says as much."""
MAX_NEEDED = 20
MAX_GUIDELINE = 20_000
"""Characters."""
MAX_SET_CATEGORIES = 3 * MAX_CATEGORIES
MAX_PEOPLE = 100
MAX_SEED = 2**31 - 1
MAX_FILTER = 2_000
MAX_LIST_ADDRESS = 200
"""Characters in a filter, as the feature list's address has it, and in the address of a list."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Rules of a set: how many labels a feature needs, whether others' stay hidden, and what comes next."""

    name: str
    needed: int = 1
    blind: bool = False
    order: str = "random"


@dataclass(frozen=True, slots=True)
class GuidelineText:
    """A guideline in markdown, and the categories to choose from; without categories they are free."""

    text: str = ""
    categories: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Scope:
    """The features of a set: those of a filter, of `features` or of a list, else all that are active.

    With `sample`, so many of them, drawn with `seed`, which also shuffles the order.
    """

    filter: Mapping[str, str] | None = None
    features: Sequence[int] | None = None
    list: str | None = None
    sample: int | None = None
    seed: int = 0


async def find_label_set(session: AsyncSession, set_id: int) -> tuple[LabelSetSummary, SaeDetail]:
    """Return a set with its SAE.

    Raises:
        NotFound: there is no such set.
    """
    found = await queries.summarise_set(session, set_id)
    sae = await get_sae(session, found.sae) if found else None
    if found is None or sae is None:
        raise NotFound(f"There is no label set {set_id}. All label sets are at /label.")
    return found, sae


async def create_set(
    session: AsyncSession,
    sae: SaeDetail,
    *,
    actor: Actor,
    rules: Rules,
    guideline: GuidelineText,
    scope: Scope,
    people: Sequence[str] = (),
) -> LabelSetView:
    """Make a set of an SAE, with its features, and ask `people` to label them.

    Raises:
        Forbidden: the actor is not a reviewer.
        Unprocessable: rules, guideline or scope are not valid, or choose no feature or too many.
        Conflict: the SAE has a set of this name.
    """
    _check_reviewer(actor)
    rules, guideline = _tidy_rules(rules), _tidy_guideline(guideline)
    await _check_free(session, sae.id, rules.name)
    features = await _ordered(session, sae, await _choose(session, sae, scope), rules.order, scope.seed)
    person_id = await ensure_person(session, actor)
    chosen = {name: value for name, value in asdict(scope).items() if value not in (None, 0)}
    if scope.features is not None:
        chosen["features"] = len(scope.features)  # the table has their numbers
    made = await queries.insert_set(
        session, sae.id, **asdict(rules), scope=chosen or {"any": True}, person_id=person_id
    )
    if made is None:
        raise Conflict(f"{sae.slug} has a label set “{rules.name}” already: choose another name.")
    await queries.put_features(session, made.id, features)
    if guideline.text or guideline.categories:
        await queries.add_guideline(
            session, made.id, guideline.text, guideline.categories, person_id=person_id, read_version=None
        )
    await _assign(session, made, features, people)
    await add_activity(session, Event(person_id, "set made", sae.id, made.id))
    found = await queries.get_set(session, made.id)
    assert found is not None
    return found


async def change_set(
    session: AsyncSession,
    set_id: int,
    *,
    actor: Actor,
    rules: Rules | None = None,
    guideline: GuidelineText | None = None,
    guideline_read: int | None = None,
    people: Sequence[str] | None = None,
    is_closed: bool | None = None,
) -> LabelSetView:
    """Change a set; what is None stays as it is. Closing it shows everybody the labels that were withheld.

    Args:
        guideline_read: version of the guideline that the new one was written from; None if there was none.

    Raises:
        Forbidden: the actor is not a reviewer.
        NotFound: there is no such set.
        Unprocessable: a value is not valid, or the set is the default one, whose rules stay.
        Conflict: the name is taken, or the guideline has another version by now.
    """
    _check_reviewer(actor)
    current = await queries.get_set(session, set_id, for_change=True)
    if current is None:
        raise NotFound(f"There is no label set {set_id}. All label sets are at /label.")
    if current.name == DEFAULT:
        raise Unprocessable("The default set takes any feature and stays as it is: make a set with rules of its own.")
    person_id = await ensure_person(session, actor)
    old = Rules(current.name, current.needed, current.blind, current.order)
    new = old if rules is None else _tidy_rules(rules)
    closed = (current.closed_at is not None) if is_closed is None else is_closed
    acts = []
    if new.name != old.name:
        await _check_free(session, current.sae_id, new.name, but=set_id)
    if new != old or closed != (current.closed_at is not None):
        await queries.update_set(session, set_id, **asdict(new), is_closed=closed)
        acts += ["set changed"] if new != old else []
        acts += ["set closed" if closed else "set opened"] if closed != (current.closed_at is not None) else []
    if guideline is not None and await _write_guideline(session, current, guideline, guideline_read, person_id):
        acts.append("guideline changed")
    if new.order != old.order:
        sae = await _sae_of(session, set_id)
        features = await queries.set_features(session, set_id)
        seed = current.scope.get("seed", 0)
        await queries.put_features(session, set_id, await _ordered(session, sae, features, new.order, seed))
    if people is not None:
        await _assign(session, replace(current, needed=new.needed), await queries.set_features(session, set_id), people)
        acts.append("people asked")
    for act in acts:
        await add_activity(session, Event(person_id, act, current.sae_id, set_id))
    changed = await queries.get_set(session, set_id)
    assert changed is not None
    return changed


async def _write_guideline(
    session: AsyncSession, current: LabelSetView, guideline: GuidelineText, read: int | None, person_id: int
) -> bool:
    """Write the next version of a guideline, unless it reads so already; return whether it was written."""
    tidy = _tidy_guideline(guideline)
    newest = await queries.current_guideline(session, current.id)
    if (newest.text, newest.categories) == (tidy.text, tuple(tidy.categories)) if newest else tidy == GuidelineText():
        return False
    written = None
    if read == current.guideline:
        written = await queries.add_guideline(
            session, current.id, tidy.text, tidy.categories, person_id=person_id, read_version=read
        )
    if written is None:
        raise Conflict(
            f"The guideline is at version {current.guideline or 0} by now, not {read or 0}: read it, and put your "
            "change into that one."
        )
    return True


async def _sae_of(session: AsyncSession, set_id: int) -> SaeDetail:
    return (await find_label_set(session, set_id))[1]


async def _choose(session: AsyncSession, sae: SaeDetail, scope: Scope) -> list[int]:
    """Return the features of a scope."""
    _check_scope(scope)
    whole = MAX_FEATURES if scope.sample is None else sae.d_sae
    if scope.features is not None:
        found = list(dict.fromkeys(scope.features))
        missing = next((feature for feature in found if feature not in range(sae.d_sae)), None)
        if missing is not None:
            raise Unprocessable(f"{sae.slug} has no feature {missing}: its features are numbered 0 to {sae.d_sae - 1}.")
    elif scope.list is not None:
        found = await _of_list(session, sae, scope.list)
    elif sae.index is None:
        raise Unprocessable(f"{sae.slug} has no index yet: name features by number, or index it first.")
    elif scope.filter is not None:
        found = await filtered_features(session, sae, read_filter(scope.filter), limit=whole + 1)
    else:
        found = await queries.active_features(session, sae, limit=whole + 1)
    if not found:
        raise Unprocessable(f"No feature of {sae.slug} is in this scope: widen it.")
    if scope.sample is not None:
        if scope.sample > len(found):
            raise Unprocessable(
                f"A sample of {scope.sample:,} cannot be drawn: only {len(found):,} features are there."
            )
        found = random.Random(scope.seed).sample(sorted(found), scope.sample)
    if len(found) > MAX_FEATURES:
        raise Unprocessable(f"A set holds at most {MAX_FEATURES:,} features: narrow the filter, or draw a sample.")
    return found


def _check_scope(scope: Scope) -> None:
    if sum(part is not None for part in (scope.filter, scope.features, scope.list)) > 1:
        raise Unprocessable("A set's features come from one place: a filter, numbers or a list.")
    if scope.sample is not None and not 1 <= scope.sample <= MAX_FEATURES:
        raise Unprocessable(f"A sample has 1 to {MAX_FEATURES:,} features.")
    if scope.seed not in range(MAX_SEED + 1):
        raise Unprocessable(f"A seed goes from 0 to {MAX_SEED}.")


async def _of_list(session: AsyncSession, sae: SaeDetail, public_id: str) -> list[int]:
    kept = (
        await get_list(session, public_id.strip()[-MAX_LIST_ADDRESS:].rpartition("/")[2])
        if storable(public_id)
        else None
    )
    if kept is None:
        raise Unprocessable("There is no such list: give the last part of its address.")
    items = await list_items(session, kept.id)
    return [item.feature for item in items if item.sae_id == sae.id]


async def _ordered(session: AsyncSession, sae: SaeDetail, features: Sequence[int], order: str, seed: int) -> list[int]:
    """Return features in the order in which they are offered; what depends on labels comes on top of it."""
    if order in ("density", "effect"):
        return await queries.by_statistic(session, sae, features, order)
    shuffled = sorted(features)
    random.Random(seed).shuffle(shuffled)
    return shuffled


async def _assign(session: AsyncSession, of: LabelSetView, features: Sequence[int], people: Sequence[str]) -> None:
    """Deal a set's features out to people, each to as many as labels are needed, so that all have equally many."""
    names = list(dict.fromkeys(one_line(name) for name in people if one_line(name)))
    if len(names) > MAX_PEOPLE:
        raise Unprocessable(f"A set is dealt out to {MAX_PEOPLE} people at most.")
    if not all(storable(name) for name in names):
        raise Unprocessable("A name cannot hold NUL or broken characters: remove them.")
    known = await find_people(session, names)
    missing = [name for name in names if name not in known]
    if missing:
        raise Unprocessable(f"There is no person named “{missing[0][:80]}”: give names of accounts.")
    cannot = [
        f"{person.name} ({'disabled' if person.disabled_at else person.role})"
        for person in known.values()
        if person.disabled_at or (person.is_account and Role[person.role] < Role.labeller)
    ]
    if cannot:
        raise Unprocessable(f"These accounts cannot label: {', '.join(cannot)}. Leave them out, or ask an admin.")
    ids = list(dict.fromkeys(known[name].id for name in names))
    if ids and of.needed > len(ids):
        raise Unprocessable(
            f"A feature needs {of.needed} labels, and {len(ids)} people cannot give as many: name more."
        )
    dealt: dict[int, list[int]] = {person_id: [] for person_id in ids}
    for place, feature in enumerate(features if ids else ()):
        for turn in range(of.needed):
            dealt[ids[(place * of.needed + turn) % len(ids)]].append(feature)
    await queries.put_assignments(session, of.id, dealt)


def _check_reviewer(actor: Actor) -> None:
    if actor.role < Role.reviewer:
        raise Forbidden("Only reviewers make and change label sets.")


async def _check_free(session: AsyncSession, sae_id: int, name: str, *, but: int | None = None) -> None:
    alike = await queries.set_like(session, sae_id, name, but=but)
    if alike is not None:
        raise Conflict(f"There is a label set “{alike}” already: choose another name.")


def _tidy_rules(rules: Rules) -> Rules:
    name = tidy_name("label set", rules.name)
    if name.lower() == DEFAULT:
        raise Unprocessable("Every SAE has a set “default” already: choose another name.")
    if rules.needed not in range(1, MAX_NEEDED + 1):
        raise Unprocessable(f"A feature needs 1 to {MAX_NEEDED} labels.")
    if rules.order not in ORDERS:
        raise Unprocessable(f"Features come in one of these orders: {', '.join(ORDERS)}.")
    return replace(rules, name=name)


def _tidy_guideline(guideline: GuidelineText) -> GuidelineText:
    text = trim(unix_lines(guideline.text))
    categories = tuple(dict.fromkeys(one_line(name) for name in guideline.categories if one_line(name)))
    if len(text) > MAX_GUIDELINE:
        raise Unprocessable(f"A guideline may have {MAX_GUIDELINE:,} characters; this one has {len(text):,}.")
    if len(categories) > MAX_SET_CATEGORIES:
        raise Unprocessable(f"A set may have {MAX_SET_CATEGORIES} categories; this one has {len(categories)}.")
    if any(len(name) > MAX_CATEGORY or "," in name for name in categories):
        raise Unprocessable(f"A category may have {MAX_CATEGORY} characters, and no comma.")
    if not all(storable(part) for part in (text, *categories)):
        raise Unprocessable("A guideline cannot hold NUL or broken characters: remove them.")
    return GuidelineText(text, categories)


def scope_words(scope: Mapping[str, Any]) -> str:
    """Return in words how a set's features were chosen."""
    if not scope:
        return "any feature"
    if scope.get("filter"):
        words = "features with " + ", ".join(f"{name} {value}" for name, value in scope["filter"].items())
    elif scope.get("features"):
        words = f"{scope['features']:,} features by number"
    elif scope.get("list"):
        words = "the features of a list"
    else:
        words = "all features that are active"
    sample = scope.get("sample")
    return f"{sample:,} drawn at random (seed {scope.get('seed', 0)}) from {words}" if sample else words
