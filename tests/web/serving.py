"""Applications on real ports, in threads of this process."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI
from pydantic import SecretStr

from app.inference import server
from app.main import create_app
from app.settings import Settings
from tests.app.inference.dictionaries import Dictionary
from tests.web.site import SECRET


class _Server(uvicorn.Server):
    """Says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = threading.Event()

    async def startup(self, sockets: list | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """Serve `app` on a free port of loopback, in a thread; yields its address."""
    server = _Server(uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert server.listening.wait(30), "the server did not start"
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def serving_inference(settings: Settings, dictionary: Dictionary) -> Iterator[Settings]:
    """Serve inference from `dictionary`; yields the settings of a site that asks it."""
    secret = SecretStr(SECRET)
    inference = dictionary.settings.model_copy(
        update={"database_url": settings.database_url, "inference_secret": secret}
    )
    with serving(server.create_app(inference)) as url:
        yield settings.model_copy(update={"inference_url": url, "inference_secret": secret})


@contextmanager
def serving_with_inference(settings: Settings, dictionary: Dictionary) -> Iterator[str]:
    """Serve the site of `settings` and the inference service that answers its probes; yields the site's address."""
    with serving_inference(settings, dictionary) as answering, serving(create_app(answering)) as address:
        yield address
