"""What is done to the model, and the controls that a change of features is compared with."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32

from sae_core.auditing.items import Item, differing_words
from sae_core.auditing.results import TreatmentKind
from sae_core.effects.controls import draw_matched
from sae_core.errors import AuditError
from sae_core.interventions import Intervention, Site
from sae_core.models import HookPoint
from sae_core.readings import Reading
from sae_core.saes import SAE


@dataclass(frozen=True)
class Change:
    """One treatment, before it is measured."""

    kind: TreatmentKind
    name: str
    sites: tuple[Site, ...] = ()
    features: tuple[int, ...] = ()
    seed: int | None = None
    """Of a random control."""

    @property
    def key(self) -> str:
        """Name in files."""
        return self.kind if self.seed is None else f"{self.kind}-{self.seed}"


@dataclass(frozen=True)
class SaeAt:
    """An SAE in its inference form, with the hook points that it reads and writes (None: the same)."""

    sae: SAE
    hook: HookPoint
    write: HookPoint | None = None

    def ablation(self, features: Sequence[int]) -> tuple[Site, ...]:
        """Return the ablation of features; the error term stays."""
        changes = [Intervention("ablate", feature=feature) for feature in features]
        return (Site(self.hook, changes, sae=self.sae, write=self.write),)


def check_features(sae: SAE, features: Sequence[int]) -> None:
    """Refuse features that the SAE does not have.

    Raises:
        AuditError: one is out of range, is named twice, or none is named.
    """
    outside = [feature for feature in features if not 0 <= feature < sae.d_sae]
    if outside:
        raise AuditError(f"There is no feature {outside[0]}: the SAE's features are 0 to {sae.d_sae - 1}.")
    if not features or len(set(features)) < len(features):
        raise AuditError("Name each feature to ablate once, and at least one.")


def feature_mass(sae: SAE, reading: Reading) -> Float[np.ndarray, " d_sae"]:
    """Return for each feature the summed length of what it adds on the texts of a reading, in the SAE's units."""
    lengths = torch.linalg.vector_norm(sae.W_dec.detach().float(), dim=1).cpu().numpy().astype(float)
    mass: Float[np.ndarray, " d_sae"] = np.asarray(reading.features.sum(axis=0), float).ravel() * lengths
    return mass


def diffmean(reading: Reading) -> Float32[np.ndarray, " d_in"]:
    """Return the mean difference of both sides' activations, of a reading of first sides and then second sides."""
    rows = reading.residual["mean"]
    pairs = reading.texts // 2
    difference: Float32[np.ndarray, " d_in"] = (
        (rows[:pairs] - rows[pairs:]).mean(axis=0, dtype=np.float64).astype(np.float32)
    )
    return difference


def changes_of(
    place: SaeAt, features: Sequence[int], chosen_half: Reading | None, *, random_controls: int, seed: int
) -> Iterator[Change]:
    """Yield the ablation of features and its controls.

    Args:
        place: the SAE.
        features: what to ablate.
        chosen_half: of the pairs on which features are chosen, all first sides and then all second; None without pairs.
        random_controls: how many sets of random features, each of another seed.
        seed: of the first set.

    Raises:
        AuditError: the SAE has no such feature.
        InterventionError: no other feature is active on the texts.
    """
    check_features(place.sae, features)
    yield Change("features", f"{len(features)} features ablated", place.ablation(features), tuple(features))
    if chosen_half is None:
        return
    mass = feature_mass(place.sae, chosen_half)
    for number in range(random_controls):
        drawn = tuple(draw_matched(features, mass, np.random.default_rng((seed, number))))
        yield Change("random", f"Random features, draw {number + 1}", place.ablation(drawn), drawn, seed + number)
    direction = diffmean(chosen_half)
    if np.linalg.norm(direction) > 0:
        change = Intervention("ablate", direction=torch.from_numpy(direction))
        yield Change("diffmean", "Difference of means projected out", (Site(place.hook, [change]),))


def can_delete_words(item: Item) -> bool:
    """Return True if the first two candidates of an item are one sentence that differs in a few words."""
    if item.sides is None:
        return False
    first, second = item.candidates[:2]
    return not first.given and not second.given and differing_words(first.text, second.text) is not None
