"""Score images against one or many replicas of a reward service.

    with RewardClient(["localhost:50051"]) as client:
        outcomes = client.score(images, scorer="counting", prompts=prompts, tasks=tasks)

Each image gets an `Outcome`: `Scored`, or `Failed` with the reason. What concerns the call as a whole (no replica
reachable to the deadline, a wrong token, an unknown scorer, another fingerprint than the pinned one) raises an error
of `assay.errors`. Nothing here turns a failure into a number.
"""

import asyncio
import concurrent.futures
import queue
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from assay.addresses import Resolver, resolve
from assay.background_loop import run_in_background
from assay.calls import Call, ServiceConnection
from assay.channel_security import ChannelSecurity
from assay.errors import AuthenticationError, ClientClosedError, ConfigError, ServiceUnavailableError
from assay.outcomes import Outcome
from assay.prepared import ENCODINGS, prepare
from assay.replica_pool import ReplicaPool
from assay.serving.scorer import ScorerInfo
from assay.statistics import AnsweredCall, ClientStatistics
from assay.tasks import Task

T = TypeVar("T")

MIB = 1024 * 1024
Priority = Literal["training", "evaluation", "batch"]
#: Images a call, unless told otherwise.
BATCH_ITEMS = 16
Tasks = Sequence[Task | Mapping[str, Any] | None]


class RewardClient:
    """A client of one service, which may have several replicas. Safe to use from several threads.

    Args:
        targets: address of each replica, e.g. `localhost:50051`, `10.0.0.7:50051` or `unix:/run/assay.sock`; a name
            that stands for several addresses is as many replicas, and is looked up again now and then.
        token: bearer token, if the service wants one.
        token_file: file that holds it; read again when it is replaced, for tokens end while a run goes on.
        tls_ca: PEM file with the authority that signed the services' certificates; switches TLS on.
        tls_certificate, tls_key: PEM files with the client's own certificate, for mutual TLS. Replaced files of TLS
            are taken up by new connections, which are then made.
        deadline_s: for a `score` call as a whole, all retries included. Generous, for a slow step beats a lost run.
        max_bytes_in_flight: image bytes under way at any time; what is beyond waits.
        batch_items: images a call; many calls are under way at once.
        encoding: how pixels travel: `rgb` (bit-exact, no codec time), `png`, `webp` (lossless), or `jpeg` (lossy!).
        hedge_budget: second copies, as a share of the calls in [0, 1], that go to another replica when the first is
            late; 0 makes none. Beyond it, a call that has waited for half of its time to the deadline gets one.
        unresponsive_after_s: a replica that for so long neither answers a call nor says that it lives is given up, and
            its calls go to the others. A service says so while its model computes.
        on_call: told of each call that was answered, on the client's thread: be quick.
        resolver: what (name, port) stands for, as IP addresses; by default what the system says.
    """

    def __init__(
        self,
        targets: Sequence[str],
        *,
        token: str | None = None,
        token_file: Path | str | None = None,
        tls_ca: Path | str | None = None,
        tls_certificate: Path | str | None = None,
        tls_key: Path | str | None = None,
        deadline_s: float = 600.0,
        max_bytes_in_flight: int = 256 * MIB,
        batch_items: int = BATCH_ITEMS,
        encoding: str = "rgb",
        hedge_budget: float = 0.05,
        unresponsive_after_s: float = 5.0,
        on_call: Callable[[AnsweredCall], None] | None = None,
        resolver: Resolver = resolve,
    ) -> None:
        if isinstance(targets, str) or not targets:
            raise ConfigError(f"targets = {targets!r}: give a list of at least one address")
        if encoding not in ENCODINGS:
            raise ConfigError(f"encoding = {encoding!r}: must be one of {', '.join(ENCODINGS)}")
        if batch_items < 1:
            raise ConfigError(f"batch_items = {batch_items}: must be at least 1")
        if not 0 <= hedge_budget <= 1:
            raise ConfigError(f"hedge_budget = {hedge_budget}: must be between 0 and 1")
        if not unresponsive_after_s > 0:
            raise ConfigError(f"unresponsive_after_s = {unresponsive_after_s}: must be more than 0")
        self.targets = tuple(targets)
        self._deadline_s = deadline_s
        security = ChannelSecurity.from_files(token, token_file, tls_ca, tls_certificate, tls_key)
        pool = ReplicaPool(self.targets, security, unresponsive_after_s, resolver)
        self._connection = ServiceConnection(pool, hedge_budget, max_bytes_in_flight, batch_items, encoding, on_call)
        self._pending: set[concurrent.futures.Future[Any]] = set()
        self._is_closed = False

    def score(self, images: Sequence[Any], **arguments: Any) -> list[Outcome]:
        """Score images and wait. Arguments as for `submit`."""
        # While this thread waits, the pixels stay as they are: no need to copy them.
        return self._wait(self.submit(images, copies=False, **arguments))

    async def score_async(self, images: Sequence[Any], **arguments: Any) -> list[Outcome]:
        """Score images from a coroutine on any loop. Arguments as for `submit`."""
        return await asyncio.wrap_future(self.submit(images, **arguments))

    def submit(
        self,
        images: Sequence[Any],
        *,
        scorer: str,
        prompts: Sequence[str],
        tasks: Tasks,
        ids: Sequence[str] | None = None,
        deadline_s: float | None = None,
        expected_fingerprint: str | None = None,
        priority: Priority = "training",
        evidence: bool = False,
        copies: bool = True,
    ) -> "concurrent.futures.Future[list[Outcome]]":
        """Start scoring and return at once.

        Args:
            images: PIL images, uint8 arrays (height, width, 3), or the bytes of PNG, WebP or JPEG files (sent as they
                are); a list or tuple of these where the scorer compares several images.
            scorer: name of the scorer.
            prompts: the prompt of each image.
            tasks: what to judge in each image: a task, or GenEval metadata.
            ids: names that appear in the service's log; by default the indices.
            deadline_s: instead of the client's.
            expected_fingerprint: refuse to be scored by anything else.
            priority: what goes first in the service's queue.
            evidence: also get detections and reasons.
            copies: False if the pixels stay as they are until the future is done; saves their copying.

        Returns:
            Future of the outcomes, in the order of the images. Cancelling it takes the work from the service.

        Raises:
            InvalidRequestError: the arguments make no sense. Errors of the service are raised by the future.
        """
        items = prepare(images, prompts, tasks, ids, copies=copies)
        call = self._call(scorer, deadline_s, expected_fingerprint, priority, evidence)
        return self._start(self._connection.score(items, call))

    def as_completed(
        self,
        images: Sequence[Any],
        *,
        scorer: str,
        prompts: Sequence[str],
        tasks: Tasks,
        ids: Sequence[str] | None = None,
        deadline_s: float | None = None,
        expected_fingerprint: str | None = None,
        priority: Priority = "training",
        evidence: bool = False,
    ) -> Iterator[tuple[int, Outcome]]:
        """Score images, and give (index, outcome) as they come in. Arguments as for `submit`.

        The work starts at the first `next`; leaving the loop takes the rest of it from the service.
        """
        items = prepare(images, prompts, tasks, ids)
        call = self._call(scorer, deadline_s, expected_fingerprint, priority, evidence)
        arrived: queue.SimpleQueue[tuple[int, Outcome] | None] = queue.SimpleQueue()
        future = self._start(self._connection.score(items, call, lambda index, outcome: arrived.put((index, outcome))))
        future.add_done_callback(lambda _: arrived.put(None))
        try:
            while (pair := arrived.get()) is not None:
                yield pair
            self._wait(future)
        finally:
            future.cancel()

    def list_scorers(self, deadline_s: float = 30.0) -> list[ScorerInfo]:
        """What the service serves, asked of any replica."""
        return self._wait(self._start(self._connection.list_scorers(time.monotonic() + deadline_s)))

    def wait_until_ready(self, timeout_s: float) -> list[ScorerInfo]:
        """Wait until a replica is ready to score, and return what it serves.

        Raises:
            ServiceUnavailableError: none was within `timeout_s`.
            AuthenticationError: the token is wrong; waiting would not help.
        """
        try:
            return self.list_scorers(timeout_s)
        except AuthenticationError:
            raise
        except (ServiceUnavailableError, TimeoutError) as error:
            where = ", ".join(self.targets)
            raise ServiceUnavailableError(
                f"no reward service was ready at {where} within {timeout_s:g} s: {error}", targets=self.targets
            ) from error

    @property
    def statistics(self) -> ClientStatistics:
        """Calls, retries, copies and the state of each replica, so far."""
        return run_in_background(self._connection.statistics()).result()

    def close(self) -> None:
        """Cancel what is under way and close the channels."""
        if self._is_closed:
            return
        self._is_closed = True
        for future in list(self._pending):
            future.cancel()
        run_in_background(self._connection.close()).result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _call(
        self, scorer: str, deadline_s: float | None, fingerprint: str | None, priority: str, evidence: bool
    ) -> Call:
        limit_s = self._deadline_s if deadline_s is None else deadline_s
        return Call(scorer, time.monotonic() + limit_s, limit_s, fingerprint, priority, evidence)

    def _start(self, work: Coroutine[Any, Any, T]) -> "concurrent.futures.Future[T]":
        if self._is_closed:
            work.close()
            raise ClientClosedError("the client is closed", targets=self.targets)
        future = run_in_background(work)
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        return future

    def _wait(self, future: "concurrent.futures.Future[T]") -> T:
        """Wait; an interrupt (Ctrl-C) or a close takes the work from the service."""
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise ClientClosedError("the client was closed during the call", targets=self.targets) from None
        finally:
            future.cancel()
