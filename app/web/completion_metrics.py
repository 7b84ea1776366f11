"""Metrics of the OpenAI-compatible endpoint."""

from prometheus_client import CollectorRegistry, Counter


class CompletionMetrics:
    """Metrics of one application: answers that were completed, and what monitors said of them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._answers = Counter(
            "seesae_completions", "Answers completed, by why they ended.", ("operation", "reason"), registry=registry
        )
        self._tokens = Counter(
            "seesae_completion_tokens", "Tokens of these answers and of their prompts.", ("part",), registry=registry
        )
        self._alerts = Counter(
            "seesae_completion_alerts", "Alerts on these answers and their prompts.", ("action",), registry=registry
        )

    def completed(self, operation: str, reason: str, prompt_tokens: int, completion_tokens: int) -> None:
        """Count an answer."""
        self._answers.labels(operation, reason).inc()
        self._tokens.labels("prompt").inc(prompt_tokens)
        self._tokens.labels("completion").inc(completion_tokens)

    def alerted(self, action: str, alerts: int) -> None:
        """Count alerts, also of an answer that nobody waits for until its end."""
        self._alerts.labels(action).inc(alerts)
