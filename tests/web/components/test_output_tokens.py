"""What a page says of output tokens, by how they were computed and where the SAE is."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from app.queries.saes import SaeDetail
from app.web.components.output_tokens import no_output_tokens, output_depth, output_meaning
from tests.factories import Synthetic


def with_provenance(sae: SaeDetail, provenance: Mapping[str, Any]) -> SaeDetail:
    assert sae.index is not None
    return replace(sae, index=replace(sae.index, provenance=provenance))


@pytest.mark.parametrize(
    ("provenance", "says"),
    [
        ({"output_tokens": {"score": "…", "tokens": 512}}, "in order of standard deviations over the features"),
        ({"output_tokens": True}, "the largest first"),
        ({"counted_by": "somebody else"}, "as the export gives it"),
    ],
)
def test_the_numbers_are_named_by_how_they_were_computed(
    made: Synthetic, provenance: Mapping[str, Any], says: str
) -> None:
    meaning = output_meaning(with_provenance(made.sae, provenance))
    assert says in meaning
    assert "A direct effect only" in meaning


@pytest.mark.parametrize(
    ("hook", "hook_out", "following"),
    [
        ("resid_post.9", None, "With 20 of the model's 30 layers after this point"),
        ("resid_pre.9", None, "With 21 of the model's 30 layers after this point"),
        ("mlp_in.2", "mlp_out.19", "With 10 of the model's 30 layers after this point"),
        ("mlp_in.2", "mlp_out.20", ""),
        ("resid_post.29", None, ""),
        ("somewhere", None, ""),
    ],
)
def test_an_early_sae_gets_a_word_of_caution(made: Synthetic, hook: str, hook_out: str | None, following: str) -> None:
    sae = replace(made.sae, hook=hook, hook_out=hook_out, model=replace(made.sae.model, n_layers=30))
    caution = output_depth(sae)
    assert caution.startswith(following)
    assert bool(caution) == bool(following)


@pytest.mark.parametrize(
    ("provenance", "why"),
    [
        ({"output_tokens": {"absent": "it rains"}}, "There are no output tokens, because it rains."),
        (
            {"output_tokens": False},
            "There are no output tokens, because the SAE does not write to the residual stream.",
        ),
        ({"output_tokens": {"score": "…", "tokens": 512}}, None),
        ({"output_tokens": True}, None),
        ({}, None),
    ],
)
def test_absent_output_tokens_are_explained(provenance: Mapping[str, Any], why: str | None) -> None:
    assert no_output_tokens(provenance) == why
