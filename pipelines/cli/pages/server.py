"""A server of models: what it says while it starts and while it runs."""

import logging
import os
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.logging import RichHandler

from imgrec.config import Config
from imgrec.serving.app import build_app
from imgrec.serving.guard import LOOPBACK, TOKEN
from imgrec.serving.listen import bind, make_server
from imgrec.serving.server import Serving
from pipelines.cli.pages.output import print_json
from pipelines.serve import source_of


def serve_models(config: Config, models: Sequence[str], *, as_json: bool) -> None:
    """Serve models until Ctrl-C or SIGTERM.

    Args:
        config: Names the MLflow, and the limits of the server.
        models: Registered ones or folders; none stands for every champion.
        as_json: Print the address and the models as one JSON object, once they answer.

    Raises:
        ImgrecError: a model cannot be served, or the address not be had.
    """
    _log_to_stderr()
    settings = config.serve
    token = os.environ.get(TOKEN, "")
    host = settings.host
    if not token and host not in LOOPBACK:
        sys.stderr.write(
            f"imgrec: {TOKEN} is not set, so this listens at 127.0.0.1 and not at {host}\n"
        )
        host = "127.0.0.1"
    source = source_of(config, models)
    listening = bind(host, settings.port)  # before anything is started that would have to be ended
    serving = Serving(source, settings)
    serving.open()
    try:
        port = listening.getsockname()[1]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        answering = [f"{model.name}/{model.version}" for model in serving.models.all()]
        if as_json:
            print_json({"address": address, "models": answering})
            sys.stdout.flush()
        sys.stderr.write(f"{', '.join(answering)}\n{address} answers, Ctrl-C ends it\n")
        sys.stderr.flush()
        # Behind a name of its own, whose Host header nobody knows here, the token is the guard.
        hosts = LOOPBACK if host in LOOPBACK else ()
        make_server(build_app(serving, token, hosts), settings).run(sockets=[listening])
    except KeyboardInterrupt:
        pass  # the way to end it
    finally:
        serving.close()
        sys.stderr.write("ended\n")


def _log_to_stderr() -> None:
    handler = RichHandler(console=Console(stderr=True), show_path=False, markup=False)
    # Of others only what is wrong with the server: what is wrong with a request is told to whoever sent it.
    levels = {
        "imgrec.serving": logging.WARNING,
        "uvicorn.error": logging.ERROR,
        "python_multipart": logging.ERROR,
    }
    for name, level in levels.items():
        log = logging.getLogger(name)
        log.addHandler(handler)
        log.setLevel(level)
        log.propagate = False
