"""Sample examples of a feature from the activation store of an SAE's index."""

from fastapi import APIRouter, Depends
from starlette.concurrency import run_in_threadpool

from app.db import transaction
from app.errors import NotFound, Unavailable
from app.inference.dependencies import Resident, Sessions, draw_turn
from app.inference.example_sampler import ActivationRange, sample_examples
from app.inference.residency import Residency
from app.object_store import StoreAway
from app.queries.examples import StoredExample
from app.queries.saes import IndexInfo, SaeDetail
from app.services.inference_messages import ExamplesAnswer, ExamplesRequest
from app.services.saes import find_sae
from sae_core.errors import ArtifactError
from sae_core.store.activation_store import ActivationStore

router = APIRouter()


@router.post("/examples", dependencies=[Depends(draw_turn)])
async def examples(request: ExamplesRequest, sessions: Sessions, residency: Resident) -> ExamplesAnswer:
    """Return the number of activations in a range, and a sample of them."""
    async with transaction(sessions) as session:
        sae = await find_sae(session, request.sae)
    if sae.index is None or request.feature not in range(sae.d_sae):
        raise NotFound("There is no such feature.")
    found, sampled = await run_in_threadpool(_sample, residency, sae, sae.index, request)
    return ExamplesAnswer(index=sae.index.id, found=found, examples=sampled)


def _sample(
    residency: Residency, sae: SaeDetail, index: IndexInfo, request: ExamplesRequest
) -> tuple[int, list[StoredExample]]:
    wanted = ActivationRange(request.feature, request.low, request.high, request.sequence)
    length = index.sequence_set.length
    store = open_store(residency, sae, index)
    return sample_examples(store, wanted, length=length, limit=request.limit, seed=request.seed)


def open_store(residency: Residency, sae: SaeDetail, index: IndexInfo) -> ActivationStore:
    """Return the activation store of an index.

    Raises:
        Unavailable: its files are missing or incomplete, or the object store that has them is away.
    """
    try:
        return residency.store(sae, index)
    except StoreAway:
        raise
    except (ArtifactError, OSError) as error:
        raise Unavailable(
            f"The activations that {sae.slug}'s index was made from are no longer on disk, so nothing can be drawn "
            f"from them; what the index keeps is still shown. seesae index {sae.slug} --corpus CORPUS makes them "
            "again."
        ) from error
