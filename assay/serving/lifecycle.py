"""The life of a server, in order of time: start, warm up, say so, serve, drain, stop.

On SIGTERM or SIGINT health turns NOT_SERVING, after a notice new calls are refused, those under way end, and the
process exits with 0. A second signal ends it now.
"""

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from assay.config import load_config
from assay.errors import ConfigError
from assay.serving.auth import Authenticator
from assay.serving.grpc_server import GrpcServer
from assay.serving.http_server import HttpServer
from assay.serving.logs import configure_logging
from assay.serving.metrics import Metrics
from assay.serving.scorer import Scorer
from assay.serving.service import ScoringService
from assay.serving.settings import ServeConfig, TlsConfig
from assay.serving.tls_files import watch_tls
from assay.tracing import configure_tracing

__all__ = ["RunningServer", "ServeConfig", "TlsConfig", "configure_logging", "serve", "serve_as_told"]

logger = logging.getLogger("assay.serving")


def serve(scorers: Sequence[Scorer], config: ServeConfig, service_name: str = "assay") -> int:
    """Serve until told to stop. Blocks; call it from the main thread.

    Prints one line to stdout when ready: `assay: ready grpc=HOST:PORT http=HOST:PORT scorers=a,b`.

    Args:
        service_name: in traces, if OTEL_SERVICE_NAME gives none.

    Returns:
        The exit code of the process: 0 after a drain, 128 + signal number if a second signal cut it short.

    Raises:
        ConfigError: a port is taken, a file cannot be read, the token is empty.
    """
    configure_tracing(service_name)
    return asyncio.run(_serve(scorers, config))


def serve_as_told(*scorers: Scorer) -> NoReturn:
    """For a file with a scorer of one's own: serve by `field=value` of the command line, then end the process."""
    try:
        config = load_config(ServeConfig, None, sys.argv[1:])
        configure_logging(config.log_format)
        sys.exit(serve(scorers, config))
    except ConfigError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        sys.exit(2)


async def _serve(scorers: Sequence[Scorer], config: ServeConfig) -> int:
    signals = _catch_signals()
    server = RunningServer(scorers, config)
    working = asyncio.create_task(_start(server, config))
    first = asyncio.create_task(signals.get())
    await asyncio.wait({working, first}, return_when=asyncio.FIRST_COMPLETED)
    if working.done() and not first.done():
        try:
            working.result()
        except BaseException:
            first.cancel()
            await server.stop(None)
            raise
        await first
    working.cancel()
    logger.info("stopping: waiting up to %s s for the calls under way", config.drain_grace_s)
    drain = asyncio.create_task(server.drain())
    second = asyncio.create_task(signals.get())
    await asyncio.wait({drain, second}, return_when=asyncio.FIRST_COMPLETED)
    if second.done():
        logger.warning("second signal: stopping now")
        drain.cancel()
        await server.stop(None)
        return 128 + second.result()
    second.cancel()
    await drain
    return 0


async def _start(server: "RunningServer", config: ServeConfig) -> None:
    await server.start()
    if config.ready_file is not None:
        _write_ready_file(config.ready_file, server)
    http = f"{server.http_address}" if server.http_address else "off"
    names = ",".join(info.name for info in server.service.infos)
    print(f"assay: ready grpc={server.grpc_address} http={http} scorers={names}", flush=True)


class RunningServer:
    """One server on the current event loop; `serve` runs one in a process, tests run some in the background."""

    def __init__(self, scorers: Sequence[Scorer], config: ServeConfig, interceptors: Sequence[Any] = ()) -> None:
        self._config = config
        metrics = Metrics()
        authenticator = Authenticator.from_config(config, metrics)
        tls = None if config.tls is None else watch_tls(config.tls, metrics)
        self.service = ScoringService(scorers, config, metrics)
        try:
            self._grpc = GrpcServer(self.service, authenticator, config, tls, interceptors)
            self._http = None if config.http_port is None else HttpServer(self.service, authenticator, config, tls)
        except ConfigError:
            self.service.close()
            raise

    @property
    def grpc_address(self) -> str:
        return f"{self._config.host}:{self._grpc.port}"

    @property
    def http_address(self) -> str | None:
        return None if self._http is None else f"{self._config.host}:{self._http.port}"

    async def start(self) -> None:
        """Listen, warm up, then report SERVING."""
        await self._grpc.start()
        if self._http is not None:
            await self._http.start()
        await self.service.warm_up()
        await self._grpc.mark_serving()

    async def drain(self) -> None:
        """Stop without losing a call."""
        await self._grpc.mark_not_serving()
        self.service.is_draining = True
        await asyncio.sleep(self._config.drain_notice_s)
        await self.stop(self._config.drain_grace_s)

    async def stop(self, grace_s: float | None) -> None:
        """Stop listening; calls under way have `grace_s` to end (None: no time at all). May be called twice."""
        doors = [self._grpc.stop(grace_s)]
        if self._http is not None:
            doors.append(self._http.stop(grace_s))
        await asyncio.gather(*doors)
        self.service.close()


def _catch_signals() -> "asyncio.Queue[int]":
    caught: asyncio.Queue[int] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, caught.put_nowait, int(number))
    return caught


def _write_ready_file(path: Path, server: RunningServer) -> None:
    """By rename, so that who waits for the file never reads half of it."""
    content = {"grpc": server.grpc_address, "http": server.http_address, "pid": os.getpid()}
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content))
    os.replace(temporary, path)
