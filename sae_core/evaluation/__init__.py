"""How good an SAE is: reconstruction, sparsity, features, and what the model loses when it reads it.

`evaluate` measures it. Each metric is one function, with its formula and source, of sums that are kept in float64:
`reconstruction` and `predictions` hold those over tokens, `features` those over features, and `resampling` says how
sure they are.
"""

from sae_core.evaluation.measure import Evaluation, MetricRow, evaluate

__all__ = ["Evaluation", "MetricRow", "evaluate"]
