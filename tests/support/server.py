"""A real server of a model on a free port of this machine, in a thread."""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from PIL import Image

from patchioner import Patchioner
from patchioner.serve import ServeSettings
from patchioner.serve.app import create_app
from patchioner.serve.guard import PunctualProtocol


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listens = threading.Event()

    async def startup(self, *arguments: Any, **more: Any) -> None:
        await super().startup(*arguments, **more)
        self.listens.set()


@contextmanager
def running(model: Patchioner, **settings: Any) -> Iterator[str]:
    """The URL of a server that lives as long as the block; leaving it is a graceful stop."""
    app = create_app(model, ServeSettings(port=0, **settings))
    server = _Server(uvicorn.Config(app, port=0, log_config=None, http=PunctualProtocol))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert server.listens.wait(60)
        host, port = server.servers[0].sockets[0].getsockname()[:2]
        yield f"http://{host}:{port}"
    finally:
        server.should_exit = True
        thread.join()


def picture_bytes(photo: Image.Image, kind: str = "PNG") -> bytes:
    """The photo as a file."""
    stream = io.BytesIO()
    photo.save(stream, kind)
    return stream.getvalue()
