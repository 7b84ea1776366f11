import torch

from sae_core.training import train
from sae_core.training.state import TrainingState, saved_steps
from tests.core.training.synthetic import D_IN, Synthetic, small


def test_dead_counts_activations_not_steps(tmp_path):
    state = TrainingState.create(small(dead_after=300).resolved(), D_IN, tmp_path, torch.device("cpu"))
    state.last_active[3] = 256
    state.step = 3
    assert 3 not in state.dead().tolist()
    assert len(state.dead()) == 63
    state.step = 5
    assert len(state.dead()) == 64


def test_only_the_last_checkpoints_are_kept(tmp_path):
    train(small(checkpoint_every=10, keep=4), Synthetic(), tmp_path, device="cpu")
    assert saved_steps(tmp_path) == [30, 40, 50, 60]
