"""Compare two SAEs: which features of one are the same as, or parts of, features of the other."""

from sae_core.matching.match import THRESHOLDS, Counterparts, Matching, match_features, provenance
from sae_core.matching.partners import Partners

__all__ = ["THRESHOLDS", "Counterparts", "Matching", "Partners", "match_features", "provenance"]
