"""Compare two SAEs: which features of one are the same as, or parts of, features of the other."""

from sae_core.matching.match import THRESHOLDS, Counterparts, Matching, match_features, provenance
from sae_core.matching.partners import Partners
from sae_core.matching.stability import PartnerShare, chance_cosines

__all__ = [
    "THRESHOLDS",
    "Counterparts",
    "Matching",
    "PartnerShare",
    "Partners",
    "chance_cosines",
    "match_features",
    "provenance",
]
