"""Records of an export: the fields that are read, with their two names in the two packages, and their limits.

Numbers are finite and as large as Postgres' `real` holds; lists that belong together have equal lengths.
"""

from typing import Annotated, Any, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, field_validator, model_validator

from app.queries.sql.pg_safe import MAX_INTEGER

MAX_FEATURE = 2**24 - 1
MAX_TOKENS = 2**15 - 1
"""Most tokens of an example, because positions are small integers."""

Number = Annotated[float, Field(ge=-1e30, le=1e30, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Index = Annotated[int, Field(ge=0, le=MAX_FEATURE)]
Amount = Annotated[int, Field(ge=0, le=MAX_INTEGER)]


def _either(*names: str) -> Any:
    return Field(default=None, validation_alias=AliasChoices(*names))


class Record(BaseModel):
    """Base of all records: unknown fields are skipped, and null means absent."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _without_null(cls, given: Any) -> Any:
        return {key: value for key, value in given.items() if value is not None} if isinstance(given, dict) else given


class Activation(Record):
    """An example: a text as tokens, and the feature's activation on each.

    `low` to `high` is the interval of activations that it represents; for top examples, which represent none, `low`
    is below zero.
    """

    index: Index | None = None
    model: str | None = _either("modelId")
    source: str | None = _either("layer")
    tokens: Annotated[list[str], Field(max_length=MAX_TOKENS)]
    values: list[Number]
    low: Number | None = _either("binMin", "bin_min")
    high: Number | None = _either("binMax", "bin_max")
    contains: Number | None = _either("binContains", "bin_contains")
    position: int | None = _either("qualifyingTokenIndex", "qualifying_token_index")

    @model_validator(mode="after")
    def _match(self) -> Self:
        _equal("tokens", self.tokens, "values", self.values)
        return self

    @property
    def is_top(self) -> bool:
        """True for one of the examples of highest activation."""
        return self.low is None or self.high is None or self.low < 0 or self.contains == -1


class Feature(Record):
    """Statistics of a feature; in a batch of SAEDashboard, its examples too."""

    index: Annotated[int, Field(ge=0, le=MAX_FEATURE, validation_alias=AliasChoices("index", "feature_index"))]
    model: str | None = _either("modelId")
    source: str | None = _either("layer")
    hook: str | None = _either("hookName")
    maximum: Number | None = _either("maxActApprox")
    density: Share = Field(default=0.0, validation_alias="frac_nonzero")
    heights: list[Annotated[float, Field(ge=0, le=MAX_INTEGER, allow_inf_nan=False)]] = Field(
        default_factory=list, validation_alias="freq_hist_data_bar_heights"
    )
    middles: list[Number] = Field(default_factory=list, validation_alias="freq_hist_data_bar_values")
    pos_str: list[str] = Field(default_factory=list)
    pos_values: list[Number] = Field(default_factory=list)
    neg_str: list[str] = Field(default_factory=list)
    neg_values: list[Number] = Field(default_factory=list)
    near: list[int] = Field(default_factory=list, validation_alias="topkCosSimIndices")
    near_cosine: list[Number] = Field(default_factory=list, validation_alias="topkCosSimValues")
    vector: list[Any] = Field(default_factory=list)
    prompts: Amount = Field(default=0, validation_alias="n_prompts_total")
    prompt_tokens: Amount = Field(default=0, validation_alias="n_tokens_in_prompt")
    dataset: str = ""
    activations: list[Activation] = Field(default_factory=list)

    @model_validator(mode="after")
    def _match(self) -> Self:
        _equal("freq_hist_data_bar_heights", self.heights, "freq_hist_data_bar_values", self.middles)
        _equal("pos_str", self.pos_str, "pos_values", self.pos_values)
        _equal("neg_str", self.neg_str, "neg_values", self.neg_values)
        _equal("topkCosSimIndices", self.near, "topkCosSimValues", self.near_cosine)
        return self


class Explanation(Record):
    """An explanation of a feature by a model or a person."""

    index: Index
    description: str = ""
    type: str | None = _either("typeName")
    model: str | None = _either("explanationModelName")
    by: str | None = _either("authorId")

    @property
    def machine(self) -> str:
        """Return method and model of a machine's explanation, '' for a person's."""
        return "/".join(filter(None, (self.type, self.model)))

    @property
    def author(self) -> str:
        """Return the author of a person's explanation."""
        return f"neuronpedia:{self.by}" if self.by else "neuronpedia"


class Batch(Record):
    """One of SAEDashboard's files."""

    model_id: str = ""
    layer: int | str = ""
    sae_set: str = ""
    sae_id_suffix: str = ""
    features: list[Feature]

    @property
    def source(self) -> str:
        """Neuronpedia's name of the SAE, such as `9-res-jb`."""
        named = "-".join(filter(None, (str(self.layer), self.sae_set)))
        return f"{named}__{self.sae_id_suffix}" if self.sae_id_suffix else named


class Skipped(Record):
    """The features that SAEDashboard left out."""

    skipped_indexes: list[Index] = Field(default_factory=list)


class Source(Record):
    """An SAE, and the text that its features were counted on."""

    id: str = ""
    model: str = Field(default="", validation_alias="modelId")
    dataset: str = ""
    prompts: Amount = Field(default=0, validation_alias="num_prompts")
    prompt_tokens: Amount = Field(default=0, validation_alias="num_tokens_in_prompt")
    repository: str = Field(default="", validation_alias="hfRepoId")
    folder: str = Field(default="", validation_alias="hfFolderId")
    notes: str = ""
    config: dict[str, Any] = Field(default_factory=dict, validation_alias="saelensConfig")

    @field_validator("config", mode="before")
    @classmethod
    def _any_config(cls, given: Any) -> Any:
        return given if isinstance(given, dict) else {}


class Model(Record):
    """A language model."""

    id: str = ""
    layers: Amount = 0
    dimension: Amount = 0


class Release(Record):
    """Publication of an SAE."""

    creator: str = Field(default="", validation_alias="creatorName")
    urls: list[str] = Field(default_factory=list)


def _equal(one: str, of_one: list[Any], other: str, of_other: list[Any]) -> None:
    if len(of_one) != len(of_other):
        raise ValueError(f"{one} has {len(of_one)} entries and {other} {len(of_other)}")
