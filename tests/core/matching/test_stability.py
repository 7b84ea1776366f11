import numpy as np
import pytest
import torch
from scipy.stats import norm

from sae_core.matching import stability
from sae_core.matching.stability import PartnerShare, chance_cosines


def test_a_share_counts_features_at_the_threshold_and_has_wilsons_interval() -> None:
    share = PartnerShare.of(np.array([0.1, 0.6999, 0.7, 0.9, 1, 0.2, -0.8, 0], np.float32))
    assert (share.features, share.found) == (8, 3)
    z, p, n = norm.ppf(0.975), 3 / 8, 8
    centre, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert share.interval == pytest.approx(((centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)))


def test_of_no_features_nothing_is_known() -> None:
    assert PartnerShare.of(np.zeros(0, np.float32)) == PartnerShare(0, 0, (0, 1))


def test_a_random_dictionary_has_no_partners_in_many_dimensions_and_some_in_few() -> None:
    generator = torch.Generator().manual_seed(0)
    wide, narrow = torch.randn(500, 256, generator=generator), torch.randn(500, 3, generator=generator)
    assert PartnerShare.of(chance_cosines(wide, torch.randn(400, 256, generator=generator))).found == 0
    assert (chance_cosines(narrow, torch.randn(400, 3, generator=generator)) > 0.9).all()


def test_chance_is_harder_to_beat_where_both_write_in_few_directions() -> None:
    generator = torch.Generator().manual_seed(0)
    scales = torch.logspace(0, -2, 64)
    a, b = (torch.randn(300, 64, generator=generator) * scales for _ in range(2))
    round_b = torch.randn(300, 64, generator=generator)
    assert chance_cosines(a, b).mean() > chance_cosines(a, round_b).mean() + 0.2


def test_at_most_so_many_features_are_searched_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stability, "CONTROLLED", 50)
    assert chance_cosines(torch.randn(120, 8), torch.randn(130, 8)).shape == (50,)
