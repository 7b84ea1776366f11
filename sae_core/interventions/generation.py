"""Generation with and without interventions, side by side.

Each side has a key-value cache of its own, and its hooks are there only while one of its passes runs: between two steps
the model is as it was, and may run for others.

**Same noise.** A token is the largest of logits / temperature + Gumbel noise, which samples from the softmax exactly.
Both sides draw the noise from the same seed, so where their distributions agree they choose the same token.

**Shift.** At each position of the changed text the next-token distributions are compared on the same tokens: the
changed model's p′, and the default model's p, which reads the changed text too. KL = Σ p′ log(p′ / p), in nats.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import Cache

from sae_core.errors import InterventionError
from sae_core.interventions.apply import intervene
from sae_core.interventions.ops import Site
from sae_core.models import LanguageModel

Side = Literal["default", "changed"]
LogProbabilities = Float[Tensor, "position vocab"]

_TOGETHER = 8
"""Generated tokens that the default model reads at once to compare: a pass of one takes nearly as long."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen, and when to stop.

    Raises:
        InterventionError: a number is out of its range.
    """

    max_new_tokens: int = 50
    temperature: float = 0.0
    """0 always takes the likeliest token."""
    seed: int = 0
    stop: tuple[str, ...] = ()
    """Texts that end the generation once they are written."""
    top: int = 5
    """Alternatives to list for each token, and tokens that rose and fell most."""
    top_p: float = 1.0
    """Tokens are drawn from the fewest likeliest ones whose probabilities sum to at least this."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise InterventionError("Generate at least one token.")
        if not 0 <= self.temperature <= 100:
            raise InterventionError("A temperature is 0 (the likeliest token) to 100.")
        if not 0 <= self.top_p <= 1:
            raise InterventionError("top_p is a probability, 0 to 1.")


@dataclass(frozen=True, slots=True)
class Step:
    """One generated token, with the likeliest tokens at its place."""

    side: Side
    token_id: int
    log_probability: float
    """At temperature 1."""
    top: list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Shift:
    """What the interventions change in the prediction after the token at `position` of the changed text."""

    position: int
    kl: float
    raised: list[tuple[int, float, float]]
    """Tokens whose probability rises most, with p and p′."""
    lowered: list[tuple[int, float, float]]


@dataclass(frozen=True, slots=True)
class End:
    """A side is complete."""

    side: Side
    reason: Literal["length", "end of text", "stop"]


Event = Step | Shift | End


@dataclass
class Generation:
    """One side's text, which grows by a token per step."""

    model: LanguageModel
    prompt: Sequence[int]
    sampling: Sampling
    sites: Sequence[Site] = ()
    side: Side = "default"
    last_only: bool = False
    """True to compute the distribution after the last token alone, where nobody compares those of the prompt."""
    token_ids: list[int] = field(default_factory=list)
    """Generated so far."""
    around: Callable[[], AbstractContextManager[None]] = nullcontext
    """Context of each pass, entered before its interventions: what watches the pass."""

    def __post_init__(self) -> None:
        require_room(self.model, len(self.prompt), self.sampling.max_new_tokens)
        self.cache = self.model.new_cache()
        self._unread = list(self.prompt)
        self._noise = torch.Generator().manual_seed(self.sampling.seed)

    @torch.no_grad()
    def step(self) -> tuple[LogProbabilities, Step]:
        """Return the log-probabilities after each token that had not been read, and the token that follows them."""
        with self.around():
            log_p = read(self.model, self.cache, self._unread, self.sites, len(self.prompt), last_only=self.last_only)
        last = log_p[-1]
        token_id = self._choose(last)
        self.token_ids.append(token_id)
        self._unread = [token_id]
        best = last.topk(self.sampling.top)
        top = list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        return log_p, Step(self.side, token_id, float(last[token_id]), top)

    def _choose(self, log_p: Float[Tensor, " vocab"]) -> int:
        if self.sampling.temperature == 0:
            return int(log_p.argmax())
        uniform = torch.rand(len(log_p), generator=self._noise, dtype=torch.float64)
        gumbel = -torch.log(-torch.log(uniform.clamp_min(1e-300)))
        logits = log_p.double().cpu() / self.sampling.temperature
        return int((_nucleus(logits, self.sampling.top_p) + gumbel).argmax())

    @property
    def end(self) -> End | None:
        """Why the text is complete; None if it is not."""
        if self.token_ids and self.token_ids[-1] in self.model.end_token_ids:
            return End(self.side, "end of text")
        text = self.model.decode(self.token_ids) if self.sampling.stop else ""
        if any(stop in text for stop in self.sampling.stop):
            return End(self.side, "stop")
        return End(self.side, "length") if len(self.token_ids) >= self.sampling.max_new_tokens else None


def generate(
    model: LanguageModel, prompt: Sequence[int], sites: Sequence[Site] = (), sampling: Sampling | None = None
) -> Iterator[Step | End]:
    """Generate one text; each step is one pass.

    Raises:
        InterventionError: prompt and new tokens do not fit in the model's context, or the interventions do not fit it.
        ModelError: the model has no such hook point.
    """
    text = Generation(model, prompt, sampling or Sampling(), sites, "changed" if sites else "default")
    while text.end is None:
        yield text.step()[1]
    yield text.end


def generate_side_by_side(
    model: LanguageModel, prompt: Sequence[int], sites: Sequence[Site], sampling: Sampling
) -> Iterator[Event]:
    """Generate with and without the interventions, in turns; raises as `generate`.

    Each step of the iterator takes at most two passes. Shifts come in order of their positions, after the tokens that
    they are about.
    """
    default = Generation(model, prompt, sampling, side="default")
    changed = Generation(model, prompt, sampling, sites, side="changed")
    log_p, step = default.step()
    yield step
    shifts = _Shifts(changed, copy.deepcopy(default.cache))
    log_q, step = changed.step()
    yield step
    yield from shifts.of(log_p, log_q)
    while default.end is None or changed.end is None:
        if default.end is None:
            yield default.step()[1]
        if changed.end is None:
            log_q, step = changed.step()
            yield step
            yield from shifts.add(log_q)
    yield from shifts.rest()
    yield default.end
    yield changed.end


class _Shifts:
    """Compares the distributions on the changed text; the default model reads it in parts, with a cache of its own."""

    def __init__(self, changed: Generation, cache: Cache) -> None:
        self._changed = changed
        self._cache = cache
        self._waiting: list[LogProbabilities] = []
        self._position = 0

    def of(self, default: LogProbabilities, changed: LogProbabilities) -> Iterator[Shift]:
        """Yield the shifts at the next positions."""
        for shift in compare(default, changed, self._position, self._changed.sampling.top):
            yield shift
            self._position += 1

    def add(self, changed: LogProbabilities) -> Iterator[Shift]:
        """Take the changed model's next distribution; yield shifts once there are enough."""
        self._waiting.append(changed)
        if len(self._waiting) == _TOGETHER:
            yield from self.rest()

    def rest(self) -> Iterator[Shift]:
        """Yield the shifts that are missing so far."""
        if not self._waiting:
            return
        changed = torch.cat(self._waiting)
        self._waiting.clear()
        first = self._position - len(self._changed.prompt)
        text = self._changed.token_ids[first : first + len(changed)]
        yield from self.of(read(self._changed.model, self._cache, text), changed)


@torch.no_grad()
def read(
    model: LanguageModel,
    cache: Cache,
    token_ids: Sequence[int],
    sites: Sequence[Site] = (),
    prompt_length: int | None = None,
    *,
    last_only: bool = False,
) -> LogProbabilities:
    """Return the next-token log-probabilities after each of these tokens, which follow those in the cache.

    With `last_only`, return those after the last one alone.
    """
    hooks = intervene(model, sites, prompt_length=prompt_length) if sites else nullcontext()
    with hooks:
        return model.extend(torch.tensor([list(token_ids)]), cache, last_only=last_only)[0].log_softmax(dim=-1)


def _nucleus(logits: Float[Tensor, " vocab"], top_p: float) -> Float[Tensor, " vocab"]:
    """Return the logits, -inf for tokens beyond the fewest likeliest ones whose probabilities sum to `top_p`."""
    if top_p >= 1:
        return logits
    ordered, tokens = logits.sort(descending=True)
    before = ordered.softmax(dim=0).cumsum(dim=0).roll(1)
    before[0] = -1.0  # the likeliest always stays
    return logits.index_fill(0, tokens[before >= top_p], -torch.inf)


def compare(default: LogProbabilities, changed: LogProbabilities, position: int, top: int) -> list[Shift]:
    """Return what changes at each of these positions, of which `position` is the first."""
    shifts = []
    divergences = divergence(default, changed).tolist()
    for offset, (log_p, log_q, kl) in enumerate(zip(default, changed, divergences, strict=True)):
        p, q = log_p.exp(), log_q.exp()
        risen, fallen = (q - p).topk(top).indices, (p - q).topk(top).indices
        raised, lowered = (
            [(int(token), float(p[token]), float(q[token])) for token in tokens] for tokens in (risen, fallen)
        )
        shifts.append(Shift(position + offset, kl, raised, lowered))
    return shifts


def divergence(log_p: LogProbabilities, log_q: LogProbabilities) -> Float[Tensor, " position"]:
    """Return KL(q ‖ p) at each position, in nats."""
    q = log_q.exp()
    divergences: Tensor = (torch.special.xlogy(q, q) - torch.where(q > 0, q * log_p, 0)).sum(dim=1).clamp_min(0)
    return divergences


def require_room(model: LanguageModel, prompt: int, new: int) -> None:
    """Refuse a generation that the model's context cannot hold.

    Raises:
        InterventionError: it cannot, or the prompt is empty.
    """
    if not prompt:
        raise InterventionError("The prompt is empty: give it some text.")
    if model.context_length is not None and prompt + new > model.context_length:
        raise InterventionError(
            f"{model.name} reads at most {model.context_length:,} tokens; the prompt has {prompt:,} and {new:,} more "
            "are asked for. Shorten the prompt, or ask for fewer."
        )
