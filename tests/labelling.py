"""A label set in which several people have labelled the same features, for the tests of agreement."""

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app.db import create_sessionmaker, transaction
from app.queries.label_sets import LabelSetView
from app.queries.labels import LabelText, LabelView
from app.queries.saes import SaeDetail
from app.services.accounts import create_account, create_token
from app.services.actors import Actor, Role
from app.services.label_sets import GuidelineText, Rules, Scope, create_set
from app.services.labels import save_label

CATEGORIES = ("syntax", "medicine", "names")
SHARED = 16
"""Features that ada and grace both labelled."""


async def make_set(
    engine: AsyncEngine,
    sae: SaeDetail,
    name: str = "medicine",
    *,
    features: int = 24,
    needed: int = 2,
    blind: bool = False,
    categories: tuple[str, ...] = CATEGORIES,
) -> LabelSetView:
    """A set about the first `features` of an SAE, with a guideline."""
    async with transaction(create_sessionmaker(engine)) as session:
        return await create_set(
            session,
            sae,
            actor=Actor("ada"),
            rules=Rules(name, needed, blind),
            guideline=GuidelineText("Be brief.", categories),
            scope=Scope(features=range(features)),
        )


async def label(
    session: AsyncSession,
    sae: SaeDetail,
    feature: int,
    author: str | Actor,
    explanation: str = "",
    *categories: str,
    label_set: str = "medicine",
    interpretability: int | None = None,
    cant_tell: bool = False,
    status: str = "submitted",
    version: int | None = None,
) -> LabelView:
    """A label by `author`; `version` is that of the label that it changes."""
    text = LabelText(explanation, categories, interpretability, 3, status, cant_tell)
    actor = Actor(author) if isinstance(author, str) else author
    return await save_label(
        session, sae, feature, actor=actor, text=text, expected_version=version, label_set=label_set
    )


async def label_together(engine: AsyncEngine, sae: SaeDetail, name: str = "medicine") -> None:
    """Labels by ada, grace and linus: ada and grace differ in every fourth feature, linus cannot tell a fifth one."""
    async with transaction(create_sessionmaker(engine)) as session:
        for feature in range(SHARED):
            right, wrong = CATEGORIES[feature % 3], CATEGORIES[(feature + 1) % 3]
            level = 1 + feature % 5
            words = f"words of {right} {feature // 2}"
            await label(session, sae, feature, "ada", words, right, label_set=name, interpretability=level)
            differs = feature % 4 == 0
            await label(
                session,
                sae,
                feature,
                "grace",
                "quite another thing" if differs else words,
                wrong if differs else right,
                label_set=name,
                interpretability=6 - level if differs else level,
            )
            if feature < 6:
                cant_tell = feature == 5
                await label(
                    session,
                    sae,
                    feature,
                    "linus",
                    "" if cant_tell else words,
                    *(() if cant_tell else (right,)),
                    label_set=name,
                    interpretability=None if cant_tell else level,
                    cant_tell=cant_tell,
                )
        for person in ("ada", "grace"):
            await label(session, sae, 20, person, label_set=name, cant_tell=True)
        await label(session, sae, 21, "ada", "seen by her alone", label_set=name)
        await label(session, sae, 22, "grace", "not ready", label_set=name, status="draft")
        await label(session, sae, 23, "linus", "taken back", label_set=name, status="discarded")


async def sign_up(engine: AsyncEngine, name: str, role: Role) -> tuple[Actor, dict[str, str]]:
    """An account, and the headers with which a program acts for it."""
    async with transaction(create_sessionmaker(engine)) as session:
        actor = await create_account(session, name, role)
        assert actor.person_id is not None
        token = await create_token(session, actor.person_id, "test")
        return actor, {"Authorization": f"Bearer {token}"}
