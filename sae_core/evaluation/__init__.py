"""Metrics of an SAE: reconstruction, sparsity, features, and the loss of the model that reads its output.

`evaluate` measures them. Each metric is one function, with its formula and source, of sums in float64: `reconstruction`
and `predictions` have those over tokens, `features` those over features, and `resampling` the intervals.
"""

from sae_core.evaluation.measure import Evaluation, MetricRow, evaluate

__all__ = ["Evaluation", "MetricRow", "evaluate"]
