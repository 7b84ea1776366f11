"""What each kind of run is asked to do. Kept with the run, shown on its page, and enough to do it again."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Slug = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=100)]


T = TypeVar("T")


def _listed(value: Any) -> Any:
    """One value, several separated by commas, or a list."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    return value if isinstance(value, list | tuple) else [value]


Several = Annotated[tuple[T, ...], BeforeValidator(_listed), Field(min_length=1, max_length=64)]
"""One or more values; each gives SAEs of its own."""


class Params(BaseModel):
    """Base of all parameters: immutable, and an unknown name is a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class CorpusParams(Params):
    """Which text, and how it is cut."""

    corpus: str
    """A name in `app.pipeline.sources.CORPORA`, a local file, or a data set of the hub."""
    tokens: int | None = Field(default=None, ge=1)
    """Counted tokens to use at most; None takes all of the corpus."""
    length: int = Field(default=128, ge=8, le=8192)
    """Positions in a sequence."""


class TrainParams(CorpusParams):
    """Train an SAE for every combination of architectures, widths and k, on one stream of activations."""

    model: str
    """A name in `app.pipeline.sources.MODELS`, a GGUF file, a local folder, or a model of the hub."""
    hook: str
    """Hook point, such as resid_post.9."""
    hook_out: str | None = None
    """Hook point that a transcoder reconstructs; None trains an autoencoder."""
    skip: bool = False
    """Whether a transcoder has a skip connection."""
    architecture: Several[str] = ("batchtopk",)
    width: Several[Annotated[int, Field(ge=2)]] = (4096,)
    """Number of features, d_sae."""
    k: Several[Annotated[int, Field(ge=1)]] = (32,)
    """Active features per token, in the architectures that aim at a number."""
    options: dict[str, float | tuple[float, ...]] = Field(default_factory=dict)
    """The architecture's own, such as l1_coefficient."""
    samples: int | None = Field(default=None, ge=1)
    """Activations to train on in all; None takes `default_samples`."""
    batch_size: int = Field(default=2048, ge=1)
    accumulate: int = Field(default=1, ge=1)
    """Parts that a batch is taken in, one after the other."""
    precision: Literal["float32", "tf32", "bf16"] = "float32"
    compile: bool = False
    """Whether a dense architecture is compiled."""
    lr: float | None = Field(default=None, gt=0)
    """Peak learning rate; None takes the field's default for the width."""
    clip: float | None = Field(default=None, gt=0)
    """Largest norm of the gradient; None takes one for the number of parameters."""
    seed: int = 0
    stream: bool = False
    """Whether activations are made as they are needed, instead of once, to the disk."""
    buffer_mb: int = Field(default=1024, ge=1)
    """Memory for the activations that a stream holds."""
    feature_shards: int = Field(default=1, ge=1)
    """Processes that share one dictionary, under torchrun."""
    track: Several[Literal["tensorboard", "wandb"]] | None = None
    """Where else the curves go."""
    name: Slug | None = None
    """Slug of the SAE; None makes one out of model, layer, architecture and width."""

    @model_validator(mode="after")
    def _names_one(self) -> "TrainParams":
        if self.name is not None and len(self.architecture) * len(self.width) * len(self.k) > 1:
            raise ValueError("A name is for one SAE; several are named by what they are. Leave the name out.")
        return self


class IndexParams(CorpusParams):
    """Compute all statistics of an SAE's features over a corpus, and publish them."""

    sae: str


class EvaluateParams(CorpusParams):
    """Measure an SAE on held-out sequences of a corpus."""

    sae: str
    predictions: int = Field(default=4096, ge=1)
    """Next-token predictions that the model's losses are measured on."""


class CompareParams(Params):
    """Compare the features of two SAEs of one model."""

    a: str
    b: str


class ImportParams(Params):
    """Take over an SAE in any public format."""

    source: str
    """A folder or file, or `org/repo[/folder][@revision]` of the hub, with `hf:` before it or not."""
    format: str | None = None
    """A name in `sae_core.checkpoints.FORMATS`; None finds out. Or "neuronpedia": statistics without weights."""
    model: str | None = None
    """What it was trained on, as in `TrainParams`; None takes what the checkpoint says."""
    hook: str | None = None
    """Hook point that it reads; None takes what the checkpoint says."""
    hook_out: str | None = None
    """Hook point that a transcoder reconstructs; None takes what the checkpoint says."""
    name: Slug | None = None
    """Slug of the SAE; None makes one as `TrainParams` does."""


class DemoParams(Params):
    """The demo: a small model, Wikipedia summaries, one SAE."""

    tokens: int = Field(default=200_000, ge=4096)
    width: int = Field(default=4096, ge=64)
    k: int = Field(default=32, ge=1)
    layer: int = Field(default=9, ge=0)
