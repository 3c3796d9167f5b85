"""What Prometheus reads: requests as the server saw them, and the engine's own counts."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from open_owl.generate.engine import Engine

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
GAUGES = {
    "running": "Answers being made.",
    "waiting": "Conversations that wait for a place.",
    "kv_tokens_used": "Positions of the key-value memory that answers in the making hold.",
    "kv_tokens": "Positions of the key-value memory in all.",
}
COUNTERS = {
    "prompt_tokens": "Tokens of prompts, visual tokens included.",
    "cached_tokens": "Tokens of prompts that were known from before.",
    "completion_tokens": "Tokens of answers.",
    "images_encoded": "Pictures that went through the vision encoder.",
    "images_known": "Pictures whose visual tokens were known from before.",
}


class EngineCounts(Collector):
    """The engine's counts at the moment they are read."""

    def __init__(self, engine: Engine):
        self.engine = engine

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        stats = self.engine.stats()
        for name, meaning in GAUGES.items():
            yield GaugeMetricFamily(f"open_owl_{name}", meaning, value=getattr(stats, name))
        for name, meaning in COUNTERS.items():
            yield CounterMetricFamily(f"open_owl_{name}", meaning, value=getattr(stats, name))


class Metrics:
    """A registry of its own, so that a process may hold several servers."""

    def __init__(self, engine: Engine):
        self.registry = CollectorRegistry()
        self.registry.register(EngineCounts(engine))
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "open_owl_requests", "Requests answered.", ["path", "status"], registry=self.registry
        )
        self.answers = Counter(
            "open_owl_answers", "Answers by how they ended.", ["finish_reason"], registry=self.registry
        )
        self.first_token = Histogram(
            "open_owl_time_to_first_token_seconds",
            "From the request's arrival to the first text.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "open_owl_request_seconds",
            "From a chat request's arrival to its last byte.",
            buckets=SECONDS,
            registry=self.registry,
        )

    def text(self) -> bytes:
        """In Prometheus's text format."""
        return generate_latest(self.registry)
