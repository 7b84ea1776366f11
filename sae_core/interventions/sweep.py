"""A sweep: the same prompt continued at several strengths, with what each strength does and what it breaks.

Four measures of interventions, each a mean over the new tokens:

- **KL** of the changed from the default next-token distribution, both reading the changed text, in nats.
- **Loss** of the changed model on a fixed text: the default model's own continuation. Nats per token.
- **Repetition**: share of the changed text's 3-grams that it has written before.
- **Promoted**: by how much the probability of chosen tokens rises, summed over them; both read the changed text.
"""

import copy
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch
from transformers import Cache

from sae_core.interventions.generation import Generation, LogProbabilities, Sampling, divergence, read
from sae_core.interventions.ops import Site
from sae_core.models import LanguageModel

_GRAM = 3


@dataclass(frozen=True, slots=True)
class Baseline:
    """The default model's continuation, on which losses are measured."""

    token_ids: list[int]
    loss: float
    repetition: float


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """What the interventions do at one strength."""

    token_ids: list[int]
    kl: float
    loss: float
    repetition: float
    promoted: float | None
    """None where no tokens were chosen."""


class Sweep:
    """Measures interventions on one prompt. Its generators yield after each pass, so that others can use the model.

    Args:
        promoted: ids of the tokens whose rise is measured.

    Raises:
        InterventionError: prompt and new tokens do not fit in the model's context.
    """

    def __init__(
        self, model: LanguageModel, prompt: Sequence[int], sampling: Sampling, promoted: Sequence[int] = ()
    ) -> None:
        self._model = model
        self._prompt = list(prompt)
        self._sampling = sampling
        self._promoted = list(promoted)
        self._default = Generation(model, prompt, sampling)
        self._after_prompt: LogProbabilities
        self._cache: Cache
        """Of the default model, with the prompt."""

    def baseline(self) -> Generator[None, None, Baseline]:
        """Return the default continuation; it comes before any `point`."""
        log_p, step = self._default.step()
        self._after_prompt, self._cache = log_p[-1:], copy.deepcopy(self._default.cache)
        losses = [-step.log_probability]
        while self._default.end is None:
            yield
            losses.append(-self._default.step()[1].log_probability)
        text = self._default.token_ids
        return Baseline(text, sum(losses) / len(losses), repetition(text))

    def point(self, sites: Sequence[Site]) -> Generator[None, None, SweepPoint]:
        """Return the measures of these interventions.

        Raises:
            InterventionError: they do not fit the model.
            ModelError: the model has no such hook point.
        """
        changed = Generation(self._model, self._prompt, self._sampling, sites, "changed")
        log_q, _ = changed.step()
        predictions, cache = [log_q[-1:]], copy.deepcopy(changed.cache)
        while changed.end is None:
            yield
            predictions.append(changed.step()[0])
        yield
        fixed = self._read(predictions[0], cache, self._default.token_ids, sites)
        own = torch.tensor(self._default.token_ids, device=fixed.device)
        loss = -fixed.gather(1, own[:, None]).mean()
        yield
        log_p = self._read(self._after_prompt, copy.deepcopy(self._cache), changed.token_ids)
        log_q = torch.cat(predictions)
        return SweepPoint(
            token_ids=changed.token_ids,
            kl=float(divergence(log_p, log_q).mean()),
            loss=float(loss),
            repetition=repetition(changed.token_ids),
            promoted=self._rise(log_p, log_q) if self._promoted else None,
        )

    def _read(
        self, first: LogProbabilities, cache: Cache, token_ids: Sequence[int], sites: Sequence[Site] = ()
    ) -> LogProbabilities:
        """Return the log-probabilities at the place of each token; `first` are those after the prompt, in the cache."""
        if len(token_ids) == 1:
            return first
        return torch.cat([first, read(self._model, cache, token_ids[:-1], sites, len(self._prompt))])

    def _rise(self, log_p: LogProbabilities, log_q: LogProbabilities) -> float:
        rise = log_q[:, self._promoted].exp() - log_p[:, self._promoted].exp()
        return float(rise.sum(dim=1).mean())


def repetition(token_ids: Sequence[int]) -> float:
    """Return the share of the 3-grams that occurred before in the text; 0 for a text that has none."""
    grams = list(zip(*(token_ids[start:] for start in range(_GRAM)), strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
