"""What each kind of run is asked to do. Kept with the run, shown on its page, and enough to do it again."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Slug = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=100)]


class Params(BaseModel):
    """Base of all parameters: immutable, and an unknown name is a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class CorpusParams(Params):
    """Which text, and how it is cut."""

    corpus: str
    """A name in `app.jobs.sources.CORPORA`, a local file, or a data set of the hub."""
    tokens: int | None = Field(default=None, ge=1)
    """Counted tokens to use at most; None takes all of the corpus."""
    length: int = Field(default=128, ge=8, le=8192)
    """Positions in a sequence."""


class TrainParams(CorpusParams):
    """Train an SAE."""

    model: str
    """A name in `app.jobs.sources.MODELS`, a GGUF file, a local folder, or a model of the hub."""
    hook: str
    """Hook point, such as resid_post.9."""
    architecture: str = "batchtopk"
    width: int = Field(default=4096, ge=2)
    """Number of features, d_sae."""
    k: int = Field(default=32, ge=1)
    """Active features per token (TopK and BatchTopK)."""
    l1_coefficient: float = Field(default=5.0, gt=0)
    """Sparsity penalty (Standard)."""
    samples: int | None = Field(default=None, ge=1)
    """Activations to train on in all; None takes `default_samples`."""
    batch_size: int = Field(default=2048, ge=1)
    lr: float | None = Field(default=None, gt=0)
    """Peak learning rate; None takes the field's default for the width."""
    seed: int = 0
    name: Slug | None = None
    """Slug of the SAE; None makes one out of model, layer, architecture and width."""


class IndexParams(CorpusParams):
    """Compute all statistics of an SAE's features over a corpus, and publish them."""

    sae: str


class EvaluateParams(CorpusParams):
    """Measure an SAE on held-out sequences of a corpus."""

    sae: str


class DemoParams(Params):
    """The demo: a small model, Wikipedia summaries, one SAE."""

    tokens: int = Field(default=200_000, ge=4096)
    width: int = Field(default=4096, ge=64)
    k: int = Field(default=32, ge=1)
    layer: int = Field(default=9, ge=0)
