"""What the server does, as Prometheus reads it at /metrics. Nothing in it is a text of a request."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fathom.generation.slots import EngineFigures
from fathom.serve.worker import Job

SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60)
GAPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)
GAUGES = {
    "rows": "Continuations that are being read or written",
    "queue": "Continuations that wait",
    "pages_used": "Pages of the cache in use",
    "pages_free": "Pages of the cache that are free",
}
COUNTERS = {
    "prompt_tokens": "Tokens of prompts",
    "reused_tokens": "Of those, found in the cache and not read again",
    "new_tokens": "Tokens written",
    "steps": "Steps of the engine",
}


class Figures(Collector):
    """The figures of an engine, read when they are asked for."""

    def __init__(self, read: Callable[[], EngineFigures]) -> None:
        self.read = read

    def collect(self) -> Iterator[Metric]:
        now = self.read()
        for name, about in GAUGES.items():
            yield GaugeMetricFamily(f"fathom_{name}", about, getattr(now, name))
        for name, about in COUNTERS.items():
            yield CounterMetricFamily(f"fathom_{name}", about, getattr(now, name))


class Metrics:
    """Counters and times of requests, and the figures of the engine."""

    def __init__(self, read: Callable[[], EngineFigures]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(Figures(read))
        self.requests = Counter(
            "fathom_requests", "Answers by route and status", ["route", "status"], registry=self.registry
        )
        self.first = self.histogram("first_token_seconds", "From a request to its first token", SECONDS)
        self.gap = self.histogram("token_gap_seconds", "Between two tokens of a request, on average", GAPS)
        self.whole = self.histogram("request_seconds", "From a request to its last token", SECONDS)

    def histogram(self, name: str, about: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"fathom_{name}", about, buckets=buckets, registry=self.registry)

    def observe(self, job: Job) -> None:
        """A job that has ended."""
        if job.first:
            self.first.observe(job.first - job.began)
            self.whole.observe(job.last - job.began)
            if job.tokens > job.count:
                self.gap.observe((job.last - job.first) / (job.tokens - job.count) * job.count)

    def text(self) -> bytes:
        return generate_latest(self.registry)
