"""What a server has done, in Prometheus' text form: counters, gauges, histograms of two latencies.

    make serve                             and in another terminal:
    curl http://127.0.0.1:8000/metrics
"""
from collections import Counter

BUCKETS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, float("inf"))


class Histogram:
    """How many values were at most so large."""

    def __init__(self):
        self.counts, self.sum = [0] * len(BUCKETS), 0.0

    def add(self, value: float) -> None:
        """Count one value in every bucket that holds it."""
        self.sum += value
        for i, most in enumerate(BUCKETS):
            self.counts[i] += value <= most

    def lines(self, name: str) -> list[str]:
        """The lines of the exposition format."""
        edges = ["+Inf" if b == float("inf") else f"{b:g}" for b in BUCKETS]
        return [f"# TYPE {name} histogram",
                *(f'{name}_bucket{{le="{e}"}} {n}' for e, n in zip(edges, self.counts)),
                f"{name}_sum {self.sum:.6f}", f"{name}_count {self.counts[-1]}"]


class Metrics:
    """Counted on the event loop; the engine's own counts are read when somebody asks."""

    def __init__(self):
        self.requests: Counter = Counter()
        self.first, self.whole = Histogram(), Histogram()

    def answered(self, path: str, status: int) -> None:
        """One request was answered; paths that do not exist share a label: nobody can make endless ones."""
        known = path in ("/v1/completions", "/v1/chat/completions", "/v1/models", "/health", "/metrics",
                         "unread")
        self.requests[path if known else "other", status] += 1

    def written(self, choices: list) -> None:
        """Texts that are done or given up: how long until their first token, and in all."""
        for c in choices:
            if c.first is not None:
                self.first.add(c.first - c.begin)
            if c.ended_at is not None:
                self.whole.add(c.ended_at - c.begin)

    def text(self, thread, pending: int) -> str:
        """Everything, as Prometheus reads it."""
        e, p = thread.engine, "five_pillars"
        lines = [f"# TYPE {p}_requests_total counter"]
        lines += [f'{p}_requests_total{{path="{path}",status="{status}"}} {n}'
                  for (path, status), n in sorted(self.requests.items())]
        pool = e.scheduler.pool
        for kind, values in (("counter", {
                "steps_total": e.counts.steps, "tokens_computed_total": e.counts.computed,
                "tokens_generated_total": e.counts.generated, "tokens_shared_total": e.counts.shared,
                "preemptions_total": e.scheduler.preemptions, "engine_restarts_total": thread.restarts}),
                             ("gauge", {
                    "texts_pending": pending, "requests_running": len(e.scheduler.running),
                    "requests_waiting": len(e.scheduler.waiting), "blocks_free": pool.n_free,
                    "blocks": len(pool.refs)})):
            for name, value in values.items():
                lines += [f"# TYPE {p}_{name} {kind}", f"{p}_{name} {value}"]
        lines += self.first.lines(f"{p}_first_token_seconds") + self.whole.lines(f"{p}_text_seconds")
        return "\n".join(lines) + "\n"
