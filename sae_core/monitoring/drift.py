"""Whether new texts still score as those of the calibration did."""

from dataclasses import dataclass

import numpy as np
import scipy  # its parts are imported when they are first used: stats takes a second
from jaxtyping import Float

from sae_core.errors import MonitorError
from sae_core.monitoring.measures import Share
from sae_core.monitoring.monitor import Calibration

ALPHA = 0.01
"""p below which a change is called one."""


@dataclass(frozen=True)
class Drift:
    """New scores beside those of the calibration. If the new texts hold positives, these are a part of the change."""

    texts: int
    statistic: float
    """Largest distance of the two cumulative distributions (two-sample Kolmogorov–Smirnov), 0 to 1."""
    p_value: float
    """Of that distance or a larger one, if both are samples of one distribution."""
    alerts: Share
    """New texts above the threshold."""
    alert_p_value: float
    """Two-sided binomial test of the alerts against the rate asked for."""

    @property
    def has_drifted(self) -> bool:
        """True if either test finds a change at p < 0.01, both counted (Bonferroni)."""
        return min(self.p_value, self.alert_p_value) < ALPHA / 2


def drift(calibration: Calibration, scores: Float[np.ndarray, " texts"], threshold: float | None = None) -> Drift:
    """Compare new scores with those of the calibration.

    Args:
        calibration: the monitor's.
        scores: of new texts.
        threshold: the monitor's, where it is not the calibration's.

    Raises:
        MonitorError: there is no new score.
    """
    if not len(scores):
        raise MonitorError("There are no new scores to compare with the calibration's.")
    found = scipy.stats.ks_2samp(calibration.scores, scores)
    above = int((scores > (calibration.threshold if threshold is None else threshold)).sum())
    return Drift(
        texts=len(scores),
        statistic=float(found.statistic),
        p_value=float(found.pvalue),
        alerts=Share.of(above, len(scores)),
        alert_p_value=float(scipy.stats.binomtest(above, len(scores), calibration.fpr).pvalue),
    )
