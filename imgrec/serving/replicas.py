"""The same application under Ray Serve: replicas on the nodes of a cluster, behind one address."""

import math
from collections.abc import Callable
from typing import TypeAlias

from ray import serve
from starlette.types import ASGIApp

from imgrec.config import ServeConfig
from imgrec.serving.app import build_app
from imgrec.serving.server import Serving
from imgrec.serving.source import ModelSource

NAME = "imgrec"
Application: TypeAlias = serve.Application


class Replica:
    """A server in a process of Ray Serve, which has the socket and hands requests on."""

    def __init__(
        self, make_source: Callable[[], ModelSource], settings: ServeConfig, token: str
    ) -> None:
        """Load all models.

        Args:
            make_source: Where they come from, as this node sees it.
            settings: Limits, of each replica.
            token: That requests must bring; empty asks for none.
        """
        self._serving = Serving(make_source(), settings)
        self._serving.open()
        self._token = token

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return build_app(self._serving, self._token)

    def __del__(self) -> None:
        """Ray Serve calls it when the replica has no more requests."""
        self._serving.close()


def application(
    make_source: Callable[[], ModelSource],
    settings: ServeConfig,
    token: str,
    *,
    replicas: int,
    cpus: float,
) -> Application:
    """What `serve.run` and `serve deploy` take.

    Args:
        make_source: Called on each replica's node.
        settings: Limits, of each replica.
        token: That requests must bring; empty asks for none.
        replicas: How many.
        cpus: Cores of each.
    """
    if not settings.decode_workers:  # a node may have many more cores than a replica
        settings = settings.model_copy(update={"decode_workers": math.ceil(cpus)})
    deployment = serve.deployment(
        serve.ingress()(Replica),
        name=NAME,
        num_replicas=replicas,
        # A replica refuses by itself what it cannot take, with a status.
        max_ongoing_requests=settings.most_waiting,
        ray_actor_options={"num_cpus": cpus},
        graceful_shutdown_timeout_s=settings.answer_seconds,
    )
    return deployment.bind(make_source, settings, token)
