"""Controls of an edit: the same changes, as long and at the same tokens, along decoder rows of random features.

A control feature is drawn from the `NEAREST` whose activation mass (the summed length of what they add to the model) is
nearest to that of the feature that is changed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_core.errors import InterventionError
from sae_core.interventions import Intervention, Site
from sae_core.saes import SAE

NEAREST = 32
_SAME = 0.999
"""Cosine from which a direction is a decoder row."""


@torch.no_grad()
def activation_mass(
    sae: SAE, x: Float[Tensor, "token d_in"], counted: Bool[Tensor, " token"]
) -> Float[np.ndarray, " d_sae"]:
    """Return for each feature the summed length of what it adds at the counted tokens. `sae` is in inference form."""
    read = x[counted]
    scale = sae.scale_back(torch.ones(len(read), device=read.device), read)
    mass = (sae.encode(read) * scale[:, None]).sum(dim=0) * torch.linalg.vector_norm(sae.W_dec, dim=1)
    found: np.ndarray = mass.double().cpu().numpy()
    return found


def control_sites(
    sites: Sequence[Site], dictionaries: Sequence[tuple[SAE, Float[np.ndarray, " d_sae"]]], random: np.random.Generator
) -> tuple[list[Site], list[list[int]]]:
    """Return one control of an edit, and the feature that takes the place of each intervention's.

    Args:
        sites: of the edit.
        dictionaries: for each site its whole SAE in inference form, with the activation mass of its features.
        random: draws the features.

    Raises:
        InterventionError: an SAE has no other active feature.
    """
    chosen, controls = [], []
    for site, (sae, mass) in zip(sites, dictionaries, strict=True):
        own = [_feature_of(change, site, sae) for change in site.interventions]
        features = list(draw_matched(own, mass, random))
        changes = [
            _along(change, site, sae, feature) for change, feature in zip(site.interventions, features, strict=True)
        ]
        controls.append(replace(site, interventions=changes))
        chosen.append(features)
    return controls, chosen


def _row(change: Intervention, site: Site) -> Float[Tensor, " d_out"]:
    """Return the vector that an intervention acts along."""
    if change.direction is not None:
        return change.direction
    assert site.sae is not None
    assert change.feature is not None
    return site.sae.W_dec[change.feature] if change.along is None else change.along


def _feature_of(change: Intervention, site: Site, sae: SAE) -> int | None:
    """Return the feature whose decoder row an intervention acts along; None for any other direction.

    An edit's file knows only the rows that it needs, under other numbers.
    """
    row = _row(change, site).float().to(sae.W_dec.device)
    cosines = torch.nn.functional.cosine_similarity(sae.W_dec.float(), row[None], dim=1)
    best = int(cosines.argmax())
    return best if cosines[best] > _SAME else None


def draw_matched(
    own: Sequence[int | None], mass: Float[np.ndarray, " d_sae"], random: np.random.Generator
) -> Iterator[int]:
    """Yield for each feature another one, drawn from the `NEAREST` of nearest mass; for None any active one.

    Raises:
        InterventionError: no other feature is active.
    """
    taken = {feature for feature in own if feature is not None}
    for feature in own:
        others = np.array([other for other in np.flatnonzero(mass > 0) if other not in taken], dtype=int)
        if not len(others):
            raise InterventionError("No other feature of the SAE is active on this text, so there is no control.")
        if feature is not None and mass[feature] > 0:
            order = np.argsort(np.abs(np.log(mass[others] / mass[feature])), kind="stable")
            others = others[order[:NEAREST]]
        drawn = int(random.choice(others))
        taken.add(drawn)
        yield drawn


def _along(change: Intervention, site: Site, sae: SAE, feature: int) -> Intervention:
    own, other = _row(change, site), sae.W_dec[feature].detach().float()
    vector = other * (torch.linalg.vector_norm(own) / torch.linalg.vector_norm(other)).item()
    return replace(change, direction=vector) if change.direction is not None else replace(change, along=vector)
