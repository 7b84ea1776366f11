from itertools import islice

import pytest
import torch

from sae_core.errors import SAEError
from sae_core.saes import ARCHITECTURES
from sae_core.training import train
from sae_core.training.state import TrainingState
from sae_core.training.step import take_step
from tests.core.training.synthetic import D_IN, OPTIONS, Synthetic, small


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_decoder_rows_keep_unit_norm_at_every_step(tmp_path, architecture):
    config = small(architecture=architecture, options=OPTIONS.get(architecture, {})).resolved()
    state = TrainingState.create(config, D_IN, tmp_path, torch.device("cpu"))
    state.sae.initialise(Synthetic().x, seed=0)
    for batch in islice(Synthetic().batches(128, seed=0), 20):
        take_step(state, batch)
        torch.testing.assert_close(state.sae.W_dec.norm(dim=1), torch.ones(64), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("architecture", "options"),
    [("standard", OPTIONS["standard"]), ("gated", OPTIONS["gated"]), ("topk", {"aux_coefficient": 0})],
)
def test_accumulated_parts_give_the_same_weights_as_the_whole_batch(tmp_path, architecture, options):
    """Also where features are dead, which 256 activations without one make them."""
    parts = {}
    for accumulate in (1, 4):
        config = small(
            architecture=architecture, options=options, accumulate=accumulate, samples=128 * 20, dead_after=256
        )
        parts[accumulate] = train(config, Synthetic(), tmp_path / str(accumulate), device="cpu")
    for name, tensor in parts[1].state_dict().items():
        torch.testing.assert_close(parts[4].state_dict()[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", ["batchtopk", "matryoshka", "topk", "jumprelu"])
def test_an_architecture_that_needs_the_whole_batch_refuses_parts_of_it(architecture):
    with pytest.raises(SAEError, match=f"accumulate is 2, but {architecture} needs each batch whole"):
        small(architecture=architecture, accumulate=2).resolved()
