"""The HTTP door's socket: uvicorn on the same event loop as gRPC, its signals left to the lifecycle."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn

from assay.errors import ConfigError
from assay.serving.auth import Authenticator
from assay.serving.http_app import create_app
from assay.serving.service import ScoringService
from assay.serving.settings import ServeConfig
from assay.serving.tls_files import TlsMaterial, http_context
from assay.watched_files import WatchedFiles


class _Uvicorn(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the lifecycle's."""
        yield


class HttpServer:
    """Listens on one port."""

    def __init__(
        self,
        service: ScoringService,
        authenticator: Authenticator,
        config: ServeConfig,
        tls: WatchedFiles[TlsMaterial] | None = None,
    ) -> None:
        self._socket = _bind(config)
        self.port: int = self._socket.getsockname()[1]
        app = create_app(service, authenticator, config)
        # Who calls is who connects: a header that says otherwise is anybody's.
        settings = uvicorn.Config(
            app, log_config=None, access_log=False, lifespan="off", server_header=False, proxy_headers=False
        )
        settings.load()
        settings.ssl = None if tls is None else http_context(tls, service.metrics)
        self._uvicorn = _Uvicorn(settings)
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._serving = asyncio.create_task(self._uvicorn.serve(sockets=[self._socket]))
        while not self._uvicorn.started and not self._serving.done():
            await asyncio.sleep(0.005)
        if self._serving.done():
            await self._serving

    async def stop(self, grace_s: float | None) -> None:
        """Stop listening; requests under way have `grace_s` to end."""
        if self._serving is None:
            self._socket.close()
            return
        self._uvicorn.should_exit = True
        done, _ = await asyncio.wait({self._serving}, timeout=grace_s or 0.01)
        if not done:
            self._uvicorn.force_exit = True
            await self._serving


def _bind(config: ServeConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((config.host, config.http_port or 0))
    except OSError as error:
        listener.close()
        message = f"cannot listen on {config.host}:{config.http_port}: {error.strerror}"
        raise ConfigError(message, reason="PORT_UNAVAILABLE") from error
    return listener
