"""The replicas of a service: which goes next, who is new, who is gone, who has fallen silent.

The replica with the fewest outstanding pixels is chosen: images differ in cost, so counting calls would not do.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Sequence

from assay.addresses import Resolver, is_name, look_up
from assay.channel_security import ChannelSecurity
from assay.replicas import Address, Replica, ReplicaUnavailable

logger = logging.getLogger("assay.client")

#: How often names are looked up: unasked, and after calls failed.
LOOK_UP_EVERY_S, LOOK_UP_AGAIN_S = 30.0, 1.0


class ReplicaPool:
    """Lives on the background loop. Connects to nothing, and looks nothing up, before `start`.

    Args:
        targets: as users give them.
        security: how to reach them.
        unresponsive_after_s: for so long a replica may be silent, if there are others.
        resolver: what names stand for.
    """

    def __init__(
        self, targets: Sequence[str], security: ChannelSecurity, unresponsive_after_s: float, resolver: Resolver
    ) -> None:
        self.targets = tuple(targets)
        self.replicas: list[Replica] = []
        self._leaving: dict[asyncio.Task[None], Replica] = {}
        self._security = security
        self._unresponsive_after_s = unresponsive_after_s
        self._resolver = resolver
        self._looked_up: dict[str, list[Address]] = {}
        self._looked_up_s = 0.0
        self._recovered = asyncio.Event()
        self._starting: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None

    async def start(self, timeout_s: float) -> None:
        """Find the replicas, the first time. May return without them: names are looked up on, for the next call."""
        if self._starting is None:
            self._starting = asyncio.create_task(self._start())
        await asyncio.wait({self._starting}, timeout=timeout_s)

    async def close(self) -> None:
        for task in (self._starting, self._watching, *self._leaving):
            if task is not None:
                task.cancel()
        await asyncio.gather(*(replica.close() for replica in self._all()))

    def choose(self, other_than: Replica | None = None) -> Replica | None:
        """The replica to call next; None if none is up."""
        awake = [replica for replica in self.replicas if replica is not other_than and replica.breaker.admits]
        if len(awake) <= 1:
            return awake[0] if awake else None
        fewest = min(replica.outstanding_pixels for replica in awake)
        return random.choice([replica for replica in awake if replica.outstanding_pixels == fewest])

    @property
    def last_failure(self) -> ReplicaUnavailable | None:
        """Why one of those that are down is down."""
        failures = (replica.last_failure for replica in self.replicas if replica.breaker.is_open)
        return next((failure for failure in failures if failure is not None), None)

    async def wait(self, timeout_s: float) -> None:
        """Wait until one may be up, `timeout_s` at most."""
        rests = [replica.breaker.rest_s for replica in self.replicas if not replica.breaker.is_open]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._recovered.wait(), max(min([timeout_s, *rests]), 0.001))

    def _all(self) -> list[Replica]:
        """Those, too, that the name no longer stands for and that have calls to finish."""
        return [*self.replicas, *self._leaving.values()]

    async def _start(self) -> None:
        await self._look_up()
        self._watching = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        """Look at the replicas now and then."""
        tick_s = min(1.0, self._unresponsive_after_s / 4)
        while True:
            await asyncio.sleep(tick_s)
            age_s = time.monotonic() - self._looked_up_s
            is_down = any(replica.breaker.is_open for replica in self.replicas)
            if age_s >= (LOOK_UP_AGAIN_S if is_down else LOOK_UP_EVERY_S):
                await self._look_up()
            for replica in self.replicas:
                replica.renew()
            await asyncio.gather(*(replica.check() for replica in self._all() if self.choose(replica) is not None))

    async def _look_up(self) -> None:
        """Names to replicas: add who is new, let go who is gone. A name that cannot be looked up keeps its replicas."""
        for target in self.targets:
            if not is_name(target):
                self._looked_up[target] = [Address(target)]
                continue
            try:
                self._looked_up[target] = await asyncio.to_thread(look_up, target, self._resolver)
            except (OSError, UnicodeError) as error:
                logger.warning("cannot look up %s: %s", target, error)
            except Exception:  # whatever a user's resolver raises
                logger.exception("cannot look up %s", target)
            self._looked_up.setdefault(target, [Address(target)])
        self._looked_up_s = time.monotonic()
        self._follow(list(dict.fromkeys(address for found in self._looked_up.values() for address in found)))

    def _follow(self, addresses: Sequence[Address]) -> None:
        known = {replica.address: replica for replica in self.replicas}
        self.replicas = [known.pop(address) if address in known else self._open(address) for address in addresses]
        for replica in known.values():
            logger.info("%s is no longer a replica", replica.target)
            leaving = asyncio.create_task(replica.close(when_idle=True))
            self._leaving[leaving] = replica
            leaving.add_done_callback(self._leaving.pop)
        if known:
            self._wake()  # who waits may go to the new ones

    def _open(self, address: Address) -> Replica:
        if self._watching is not None:
            logger.info("%s is a new replica", address.target)
        return Replica(address, self._security, self._unresponsive_after_s, self._wake)

    def _wake(self) -> None:
        self._recovered.set()
        self._recovered = asyncio.Event()
