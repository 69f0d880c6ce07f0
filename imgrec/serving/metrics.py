"""What a server counts, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
PICTURES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Of one server."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "imgrec_requests", "Requests answered.", ("path", "status"), registry=registry
        )
        self.seconds = Histogram(
            "imgrec_request_seconds",
            "From a request's head to its answer.",
            ("path",),
            buckets=SECONDS,
            registry=registry,
        )
        self.pictures = Counter(
            "imgrec_pictures",
            "Pictures by what came of them.",
            ("model", "outcome"),
            registry=registry,
        )
        self.batch = Histogram(
            "imgrec_batch_pictures",
            "Pictures that a model looks at together.",
            ("model",),
            buckets=PICTURES,
            registry=registry,
        )
        self.inside = Gauge("imgrec_pictures_inside", "Pictures on their way.", registry=registry)
        self.version = Gauge(
            "imgrec_model_version",
            "1 for the version of each model that answers.",
            ("model", "version"),
            registry=registry,
        )
        self.swaps = Counter(
            "imgrec_model_swaps",
            "New versions by what came of them.",
            ("model", "outcome"),
            registry=registry,
        )

    def text(self) -> bytes:
        """In Prometheus' own format."""
        return generate_latest(self._registry)
