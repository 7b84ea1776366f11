"""Label sets as the API reads and writes them."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from app.queries.label_sets import GuidelineView, LabelSetSummary
from app.services.label_sets import MAX_FEATURES, MAX_GUIDELINE, MAX_NEEDED, MAX_SEED, Scope
from app.tables.label_sets import Order


class ScopeIn(BaseModel):
    """The features of a set: those of one of `filter`, `features` and `list`, or else all that are active."""

    model_config = ConfigDict(extra="forbid")

    filter: Annotated[
        dict[str, str] | None,
        Field(
            description="Words of the feature list's query string.",
            examples=[{"min_density": "0.0001", "label": "unlabelled"}],
        ),
    ] = None
    features: Annotated[list[int] | None, Field(max_length=MAX_FEATURES)] = None
    list: Annotated[str | None, Field(description="The id of a saved list.")] = None
    sample: Annotated[int | None, Field(ge=1, le=MAX_FEATURES, description="Draw so many of them.")] = None
    seed: Annotated[int, Field(ge=0, le=MAX_SEED, description="Of the sample, and of the random order.")] = 0

    def scope(self) -> Scope:
        """Return the scope of the service."""
        return Scope(self.filter, self.features, self.list, self.sample, self.seed)


class GuidelineIn(BaseModel):
    """A guideline to write."""

    model_config = ConfigDict(extra="forbid")

    text: Annotated[str, Field(description=f"Markdown, up to {MAX_GUIDELINE:,} characters.")] = ""
    categories: Annotated[
        list[str], Field(description="To choose from; without any, people write their own.", examples=[["syntax"]])
    ] = []


class GuidelineOut(BaseModel):
    """One version of a guideline."""

    version: int
    text: str
    categories: list[str]
    by: str
    created_at: datetime

    @classmethod
    def of(cls, view: GuidelineView) -> "GuidelineOut":
        """Return the guideline of a query's view."""
        return cls(
            version=view.version,
            text=view.text,
            categories=list(view.categories),
            by=view.by,
            created_at=view.created_at,
        )


class LabelSetIn(BaseModel):
    """A label set to make."""

    model_config = ConfigDict(extra="forbid")

    sae: Annotated[str, Field(description="Slug of the SAE.", examples=["smollm2-135m-l9-batchtopk-4096"])]
    name: Annotated[str, Field(examples=["first pass"])]
    guideline: GuidelineIn = GuidelineIn()
    needed: Annotated[int, Field(ge=1, le=MAX_NEEDED, description="Labels that each feature needs.")] = 1
    blind: Annotated[bool, Field(description="True hides others' labels of a feature until one's own is in.")] = False
    order: Order = "random"
    scope: ScopeIn = ScopeIn()
    people: Annotated[list[str], Field(description="Who is asked to label; features are dealt out evenly.")] = []


class LabelSetChange(BaseModel):
    """What to change in a set; what is left out stays."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = None
    needed: Annotated[int | None, Field(ge=1, le=MAX_NEEDED)] = None
    blind: bool | None = None
    order: Order | None = None
    guideline: Annotated[
        GuidelineIn | None, Field(description="Becomes the next version; If-Match has the version that was read.")
    ] = None
    people: Annotated[list[str] | None, Field(description="Replaces who is asked to label.")] = None
    closed: Annotated[bool | None, Field(description="A closed set takes no labels, and shows everybody all.")] = None


class LabelSetOut(BaseModel):
    """A label set with how far it is."""

    id: int
    sae: str
    name: str
    needed: int
    blind: bool
    order: Order
    scope: Annotated[dict[str, Any], Field(description="How its features were chosen; empty if it takes any.")]
    guideline_version: int | None
    features: Annotated[int | None, Field(description="Null while it takes any.")]
    done: Annotated[int, Field(description="Features with as many submitted labels as needed.")]
    labels: Annotated[int, Field(description="Submitted labels.")]
    created_at: datetime
    closed_at: datetime | None

    @classmethod
    def fields_of(cls, summary: LabelSetSummary) -> dict[str, Any]:
        """Return the fields of a query's view."""
        of = summary.set
        own = {
            name: getattr(of, name) for name in ("id", "name", "needed", "blind", "order", "created_at", "closed_at")
        }
        counts = {"features": summary.features, "done": summary.done, "labels": summary.labels}
        return {**own, **counts, "sae": summary.sae, "scope": dict(of.scope), "guideline_version": of.guideline}

    @classmethod
    def of(cls, summary: LabelSetSummary) -> "LabelSetOut":
        """Return the set of a query's view."""
        return cls(**cls.fields_of(summary))


class AskedOut(BaseModel):
    """A person who is asked to label, and how many features."""

    person: str
    features: int


class LabelSetDetail(LabelSetOut):
    """A set with its guideline, all versions of which are kept, newest first, and who is asked to label."""

    guideline: GuidelineOut | None
    guidelines: list[GuidelineOut]
    people: list[AskedOut]


class LabelSetList(BaseModel):
    """Label sets, newest first."""

    labelsets: list[LabelSetOut]
