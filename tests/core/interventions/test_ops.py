"""What interventions refuse, and on which tokens they act."""

from typing import Any

import pytest
import torch

from sae_core.errors import InterventionError
from sae_core.interventions import Intervention, Site
from sae_core.interventions.narrow import narrowed
from sae_core.interventions.tokens import PassTokens
from sae_core.models import HookPoint
from tests.core.interventions.conftest import HOOK, random_sae

VECTOR = torch.ones(32)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"op": "boost", "feature": 1}, "no intervention"),
        ({"op": "clamp", "feature": 1, "value": float("nan")}, "too large"),
        ({"op": "clamp", "feature": 1, "value": float("inf")}, "too large"),
        ({"op": "add", "feature": 1, "value": 1e30}, "too large"),
        ({"op": "add"}, "one feature or one direction"),
        ({"op": "add", "feature": 1, "direction": VECTOR}, "one feature or one direction"),
        ({"op": "clamp", "direction": VECTOR}, "no activation to clamp"),
        ({"op": "add", "direction": VECTOR * float("nan")}, "finite"),
        ({"op": "add", "direction": VECTOR * 0}, "not all of them zero"),
        ({"op": "add", "direction": VECTOR[None]}, "one vector"),
        ({"op": "ablate", "feature": 1, "positions": "some"}, "no positions"),
        ({"op": "ablate", "feature": 1, "positions": (4, 4)}, "no range"),
        ({"op": "ablate", "feature": 1, "positions": (-1, 4)}, "no range"),
        ({"op": "ablate", "feature": 1, "positions": frozenset()}, "at least one position"),
        ({"op": "ablate", "feature": 1, "positions": frozenset({-1, 2})}, "at least one position"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InterventionError, match=message):
        Intervention(**fields)


def test_a_site_refuses_what_does_not_fit_its_sae() -> None:
    sae = random_sae()
    ablate = Intervention("ablate", feature=3)
    for changes, message in [
        ([], "nothing to do"),
        ([Intervention("ablate", feature=48)], "no feature 48"),
        ([ablate, Intervention("clamp", 2.0, feature=3)], "two interventions, ablate and clamp"),
        ([Intervention("add", 1.0, direction=torch.ones(31))], "31 dimensions"),
    ]:
        with pytest.raises(InterventionError, match=message):
            Site(HOOK, changes, sae)
    with pytest.raises(InterventionError, match="needs the SAE"):
        Site(HOOK, [ablate])
    with pytest.raises(InterventionError, match="another hook point"):
        Site(HookPoint("mlp_in", 1), [ablate], random_sae(d_out=32))
    Site(HOOK, [ablate, Intervention("ablate", feature=3, positions="prompt")], sae)  # the same op twice


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        ("all", [0, 0, 1, 1, 1, 1]),
        ("prompt", [0, 0, 1, 1, 0, 0]),
        ("generated", [0, 0, 0, 0, 1, 1]),
        ((0, 3), [0, 0, 1, 1, 0, 0]),
        ((2, 9), [0, 0, 0, 1, 1, 1]),
        (frozenset({1, 4}), [0, 0, 1, 0, 0, 1]),
    ],
)
def test_positions_leave_out_padding_and_special_tokens(positions: Any, expected: list[int]) -> None:
    tokens = PassTokens(
        positions=torch.tensor([[-1, 0, 1, 2, 3, 4]]),
        special=torch.tensor([[True, True, False, False, False, False]]),
        generated=torch.tensor([[False, False, False, False, True, True]]),
    )
    change = Intervention("ablate", feature=0, positions=positions)
    assert change.acts_on(tokens).int().tolist() == [expected]
    asked = Intervention("ablate", feature=0, positions=positions, special_tokens=True)
    with_bos = [0, int(positions in ("all", "prompt", (0, 3))), *expected[2:]]
    assert asked.acts_on(tokens).int().tolist() == [with_bos]


@pytest.mark.parametrize("kind", ["standard", "jumprelu", "topk"])
@pytest.mark.parametrize("options", [{}, {"d_out": 32, "skip": True}, {"normalize_activations": "layer_norm"}])
def test_a_narrowed_sae_gives_its_features_the_same_activations(kind: str, options: dict[str, Any]) -> None:
    sae, x = random_sae(kind, **options), torch.randn(9, 32, generator=torch.Generator().manual_seed(1))
    small, row_of = narrowed(sae, [3, 11, 40])
    assert small.d_sae == (48 if kind == "topk" else 3)
    for feature, row in row_of.items():
        torch.testing.assert_close(small.encode(x)[:, row], sae.encode(x)[:, feature])
    assert (sae.encode(x)[:, [3, 11, 40]] > 0).any()
