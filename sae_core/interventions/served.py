"""Interventions on a model that vLLM runs: what its workers are told, and what they cannot do."""

from collections.abc import Sequence

from interp_engine.vllm_capture import STEERABLE_POINTS

from sae_core.errors import BackendError
from sae_core.interventions.ops import Site
from sae_core.interventions.site_json import site_to_json
from sae_core.models import HookPoint, LanguageModel, ServedModel
from sae_core.models.served import Changes


def require_possible(model: LanguageModel, sites: Sequence[Site]) -> None:
    """Refuse interventions that the model's back end cannot do, before anything runs.

    Raises:
        BackendError: there is one.
    """
    if not isinstance(model, ServedModel):
        return
    for site in sites:
        point = written_at(site)
        if point.name == "resid_mid" or point.name not in STEERABLE_POINTS:
            raise BackendError(f"vLLM cannot change activations at {point}.")
        model.require_point(point)
        if site.encoded and point != site.hook:
            raise BackendError(
                f"vLLM cannot change a transcoder's features by their activations, which are read at {site.hook} and "
                f"written at {point}: add to them instead."
            )


def changes_of(model: ServedModel, sites: Sequence[Site], prompt_length: int | None) -> Changes:
    """Return what the workers are told.

    Raises:
        BackendError: as `require_possible`.
    """
    require_possible(model, sites)
    if prompt_length is None:
        raise BackendError("On vLLM it must be said how many tokens the prompt has.")
    written = frozenset(written_at(site) for site in sites)
    return model.changes(sites, prompt_length, written, lambda: [site_to_json(site) for site in sites])


def written_at(site: Site) -> HookPoint:
    """Return where the change is added."""
    return site.write or site.hook
