"""Metrics of the inference process, in Prometheus' terms. The site's own /metrics passes them on."""

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.inference.residency import Residency
from app.inference.scheduler import Scheduler

_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class InferenceMetrics:
    """Metrics of one application."""

    def __init__(self, registry: CollectorRegistry, residency: Residency, schedulers: dict[str, Scheduler]) -> None:
        self.seconds = Histogram(
            "seesae_inference_seconds",
            "Seconds to the end of the answer, waiting included.",
            ("operation",),
            buckets=_BUCKETS,
            registry=registry,
        )
        self.refusals = Counter(
            "seesae_inference_refusals", "Requests refused, by reason.", ("reason",), registry=registry
        )
        registry.register(_State(residency, schedulers))


class _State(Collector):
    """Facts at the moment of asking."""

    def __init__(self, residency: Residency, schedulers: dict[str, Scheduler]) -> None:
        self._residency = residency
        self._schedulers = schedulers

    def collect(self) -> list[Metric]:
        """Return the length of each queue, and what is in memory."""
        waiting = GaugeMetricFamily("seesae_inference_waiting", "Requests that wait for a turn.", labels=["queue"])
        for name, scheduler in self._schedulers.items():
            waiting.add_metric([name], scheduler.waiting)
        modules = self._residency.modules
        return [
            waiting,
            GaugeMetricFamily("seesae_inference_memory_bytes", "Memory of models and SAEs.", modules.nbytes),
            GaugeMetricFamily("seesae_inference_memory_limit_bytes", "Most memory they may use.", modules.limit),
            CounterMetricFamily("seesae_inference_loads", "Models and SAEs loaded.", modules.loads),
        ]
