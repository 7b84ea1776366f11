"""The config of a training run. Its defaults are a recipe that works within minutes on two CPU cores."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from sae_core.devices import resolve_device
from sae_core.errors import SAEError
from sae_core.kernels import gpu
from sae_core.saes import ARCHITECTURES, SAE, SAEConfig

PRECISIONS = ("float32", "tf32", "bf16")
KERNELS = ("torch", "triton")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Architecture and size of an SAE, and how it is trained."""

    architecture: str = "batchtopk"
    """A name in `sae_core.saes.ARCHITECTURES`."""
    d_sae: int = 4096
    """Number of features."""
    k: int = 32
    """Active features per token that training aims at; standard and gated do where `l1_coefficient` is not given."""
    skip: bool = False
    """True if a transcoder has a skip connection."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The architecture's own options: fields of its `Config`, such as `l1_coefficient` of the standard SAE."""
    sparsity_warmup: float = 0.3
    """Share of the steps over which a sparsity penalty grows to its full weight."""
    samples: int = 2_000_000
    """Activations to train on in all; more than the source holds means several epochs."""
    batch_size: int = 2048
    """Activations per step, over all processes."""
    accumulate: int = 1
    """Parts that a process takes its batch in, one after the other, if it does not fit into memory whole. Only for
    losses that are means over tokens: those of standard and gated, and of topk without AuxK."""
    precision: str = "float32"
    """Precision of products: `float32`; `tf32`, on GPUs that have it; `bf16`, by autocast. Weights are float32."""
    compile: bool = False
    """True compiles the losses of a dense architecture (standard, gated), which needs a C++ compiler: on two CPU cores
    a step of 4,096 features then took a tenth to a quarter less time. The others gain nothing by it."""
    kernels: str = "torch"
    """`torch`, or `triton`: kernels for NVIDIA GPUs, for sparse architectures only. A TopK or BatchTopK autoencoder
    that one process trains, without `accumulate`, then takes its whole step in them, captured in a CUDA graph; others
    use them to select, to decode and for gradients. They are tested in Triton's interpreter, but they have never run
    on a GPU here: their speed is unmeasured."""
    lr: float | None = None
    """Peak learning rate; None takes `default_lr`."""
    warmup: float = 0.05
    """Share of the steps over which the learning rate grows to its peak."""
    decay: float = 0.2
    """Share of the steps, at the end, over which it falls to zero."""
    beta1: float = 0.9
    """Adam's memory of the gradient."""
    beta2: float = 0.999
    """Adam's memory of the squared gradient."""
    clip: float | None = None
    """Largest norm of the gradient; None takes `GRADIENT_RMS` for each parameter, which binds at every step."""
    dead_after: int | None = None
    """A feature is dead when none of this many activations made it active; None takes a twentieth of `samples`, at most
    10 million."""
    seed: int = 0
    """Of the start values and of the order of the data."""
    log_every: int | None = None
    """Steps that each point of the curves is a mean over; None gives some 200 points."""
    checkpoint_every: int = 1000
    """Steps between checkpoints; one is also written every ten seconds."""
    keep: int = 2
    """Checkpoints that stay on disk."""

    @property
    def steps(self) -> int:
        """Steps in all; the last one may go past `samples`."""
        return math.ceil(self.samples / self.batch_size)

    def resolved(self) -> "TrainingConfig":
        """Return the same with every None replaced by the value that training uses.

        Raises:
            SAEError: a value is not valid, or this machine cannot do what it asks for.
        """
        if self.architecture not in ARCHITECTURES:
            raise SAEError(f"There is no architecture {self.architecture!r}. Choose {', '.join(ARCHITECTURES)}.")
        if self.precision not in PRECISIONS:
            raise SAEError(f"precision is {self.precision!r}. Choose {', '.join(PRECISIONS)}.")
        # A batch of one has no variance to explain.
        least = {"d_sae": 1, "k": 1, "samples": 1, "batch_size": 2, "accumulate": 1, "checkpoint_every": 1, "keep": 1}
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise SAEError(f"{name} is {getattr(self, name)}. Give a number of at least {minimum}.")
        if self.takes_k and self.k > self.d_sae:
            raise SAEError(f"k is {self.k}, more than the {self.d_sae} features. Give a smaller k or a larger width.")
        if self.compile and not ARCHITECTURES[self.architecture].is_dense:
            dense = ", ".join(name for name, sae in ARCHITECTURES.items() if sae.is_dense)
            raise SAEError(f"Compiling pays for {dense} only, not for {self.architecture}. Leave it out.")
        self._check_kernels()
        self._check_options()
        if self.accumulate > 1 and not ARCHITECTURES[self.architecture].is_mean_over_tokens(self.options):
            raise SAEError(
                f"accumulate is {self.accumulate}, but {self.architecture} needs each batch whole: in parts it would "
                "be another algorithm. Leave accumulate out and give a smaller batch_size; or choose standard, gated, "
                "or topk with aux_coefficient=0."
            )
        return replace(
            self,
            lr=default_lr(self.d_sae, self.steps) if self.lr is None else self.lr,
            dead_after=min(10_000_000, self.samples // 20) if self.dead_after is None else self.dead_after,
            log_every=max(1, self.steps // 200) if self.log_every is None else self.log_every,
        )

    def identity(self) -> dict[str, Any]:
        """Return the fields by which a run is known: its checkpoints keep them, and keys of artifacts hash them.

        A field that was added later is left out while it has its default, so that runs from before keep their keys.
        """
        later = {"kernels": "torch"}
        identity = {name: value for name, value in asdict(self).items() if name not in later or value != later[name]}
        return identity | ({"controls_l0": True} if self.controls_l0 else {})

    @property
    def takes_k(self) -> bool:
        """True if training aims at a number of active features."""
        return "k" in self._own_options or self.controls_l0

    @property
    def controls_l0(self) -> bool:
        """True if training sets the λ of an L1 penalty so that k features are active: it does unless λ is given."""
        return "l1_coefficient" in self._own_options and "l1_coefficient" not in self.options

    @property
    def _own_options(self) -> set[str]:
        return _names(ARCHITECTURES[self.architecture].Config)

    def sae(self, d_in: int, d_out: int | None = None, shards: int = 1) -> SAE:
        """Return an SAE of this architecture without start values.

        Args:
            d_in: width of the activations that it reads.
            d_out: width of what a transcoder reconstructs; None makes an autoencoder.
            shards: processes that share the features; the SAE has one process' part.
        """
        architecture = ARCHITECTURES[self.architecture]
        values: dict[str, Any] = {**self.options, "skip": self.skip, "d_out": d_out}
        if "k" in self._own_options:
            values["k"] = self.k
        return architecture(architecture.Config(d_in=d_in, d_sae=self.d_sae // shards, **values))

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0: it rises linearly, is flat, and falls linearly."""
        assert self.lr is not None, "resolved() comes first"
        rising = (step + 1) / max(1.0, self.warmup * self.steps)
        falling = (self.steps - step) / max(1.0, self.decay * self.steps)
        return self.lr * min(1.0, rising, falling)

    def _check_kernels(self) -> None:
        if self.kernels not in KERNELS:
            raise SAEError(f"kernels is {self.kernels!r}. Choose {', '.join(KERNELS)}.")
        if self.kernels == "triton" and ARCHITECTURES[self.architecture].is_dense:
            sparse = ", ".join(name for name, sae in ARCHITECTURES.items() if not sae.is_dense)
            raise SAEError(f"Triton kernels are for {sparse} only, not for {self.architecture}. Choose torch.")
        if self.kernels == "triton" and not gpu.can_run_on(resolve_device("auto")):
            raise SAEError("Triton kernels need an NVIDIA GPU and Triton, and this machine lacks one. Choose torch.")

    def _check_options(self) -> None:
        known = {
            entry.name: entry.default
            for entry in fields(ARCHITECTURES[self.architecture].Config)
            if entry.name not in _names(SAEConfig) | {"k"}
        }
        for name, value in self.options.items():
            if name not in known:
                raise SAEError(f"{self.architecture} has no option {name!r}. It has {', '.join(known) or 'none'}.")
            wanted = (list, tuple) if isinstance(known[name], tuple) else (int, float)
            if not isinstance(value, wanted) or isinstance(value, bool):
                kind = "a list of numbers" if isinstance(known[name], tuple) else "a number"
                raise SAEError(f"{name} is {value!r}. Give {kind}, such as {known[name]}.")


def _names(config: type[SAEConfig]) -> set[str]:
    return {entry.name for entry in fields(config)}


GRADIENT_RMS = 3e-7
"""Root mean square that the gradient's entries are scaled down to.

Losses here are shares of a variance, and their gradients are always larger than this. So all steps count alike;
otherwise the large gradients of the first steps would dominate Adam's averages. Adam's ε, 1e-8, is then a thirtieth of
a typical entry, which keeps rare features from moving by noise. A smaller value leaves fewer features silent, a larger
one explains a little more (benchmarks/NOTES.md has the figures).
"""


def default_lr(d_sae: int, steps: int) -> float:
    """Return 2e-4 / sqrt(d_sae / 2^14), as dictionary_learning does, times sqrt(20,000 / steps) for shorter runs.

    dictionary_learning's rate is for hundreds of thousands of steps. A few hundred need a larger one: on SmolLM2's
    layer 9 (d_sae 4096, k 32), 196 steps explain 0.69 of the held-out variance at the plain rate, 0.80 at four times,
    0.83 at eight; at sixteen times, 6 % of the features are dead.
    """
    return 2e-4 / math.sqrt(d_sae / 2**14) * min(8.0, max(1.0, math.sqrt(20_000 / steps)))
