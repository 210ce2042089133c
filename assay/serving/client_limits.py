"""What one client may take, so that no client can starve the others: calls and items under way, and items a second.

A client is the holder of a token, or the subject of a certificate, or an address. Runs on the event loop; no locks.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pydantic import Field

from assay.config import ConfigModel
from assay.serving.rejection import Rejection

MAX_CLIENTS = 10_000
RETRY_S = 0.25


class ClientLimits(ConfigModel):
    """Null is no limit."""

    max_calls: int | None = Field(default=None, ge=1, description="calls of one client under way")
    max_items: int | None = Field(default=None, ge=1, description="items of one client under way")
    items_per_second: float | None = Field(default=None, gt=0, description="of one client, with bursts of a second")


@dataclass
class _Use:
    """What a client has under way, and how many items it may still send now (below 0: it is ahead of its rate)."""

    calls: int = 0
    items: int = 0
    credit: float = 0.0
    counted_s: float = 0.0


class ClientShares:
    """Holds every client to the limits."""

    def __init__(self, limits: ClientLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._uses: OrderedDict[str, _Use] = OrderedDict()

    @contextmanager
    def take(self, client: str, items: int) -> Iterator[None]:
        """Count a call for as long as it takes; the items of one that is refused inside do not count.

        Raises:
            Rejection: CLIENT_LIMIT (UNAVAILABLE, with when to retry).
        """
        use = self._use(client)
        self._check(use, items)
        use.calls, use.items, use.credit = use.calls + 1, use.items + items, use.credit - items
        try:
            yield
        except Rejection:
            use.credit += items
            raise
        finally:
            use.calls, use.items = use.calls - 1, use.items - items

    def _use(self, client: str) -> _Use:
        rate, now_s = self._limits.items_per_second or 0.0, self._clock()
        use = self._uses.pop(client, None) or _Use(credit=rate, counted_s=now_s)
        use.credit = min(rate, use.credit + rate * (now_s - use.counted_s))
        use.counted_s = now_s
        self._uses[client] = use
        if len(self._uses) > MAX_CLIENTS:
            idle = next((name for name, other in self._uses.items() if other.calls == 0), None)
            self._uses.pop(idle or "", None)
        return use

    def _check(self, use: _Use, items: int) -> None:
        limits = self._limits
        if limits.max_calls is not None and use.calls >= limits.max_calls:
            _refuse("max_calls", limits.max_calls, f"{use.calls} calls are under way", RETRY_S)
        # A call that is larger than the limit passes when it is alone; it could never pass otherwise.
        if limits.max_items is not None and use.items > 0 and use.items + items > limits.max_items:
            _refuse("max_items", limits.max_items, f"{use.items} items are under way, {items} more asked for", RETRY_S)
        if limits.items_per_second is not None and use.credit <= 0:
            wait_s = max(RETRY_S, -use.credit / limits.items_per_second)
            _refuse("items_per_second", limits.items_per_second, "the client is ahead of its rate", wait_s)


def _refuse(name: str, limit: float, what: str, retry_after_s: float) -> None:
    message = f"client_limits.{name} = {limit:g}: {what}"
    raise Rejection("UNAVAILABLE", "CLIENT_LIMIT", message, {"limit": f"{limit:g}", "bound": name}, retry_after_s)
