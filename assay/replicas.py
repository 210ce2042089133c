"""The replicas of a service as a client sees them: a channel each, what each has to do, and which goes next.

The replica with the fewest outstanding pixels is chosen: images differ in cost, so counting calls would not do. One
that answers UNAVAILABLE is left alone for a while, longer each time, or as long as it asks for.
"""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from grpc import aio

from assay.grpc_options import client_options
from assay.v1 import reward_service_pb2 as pb

_SERVICE = pb.DESCRIPTOR.services_by_name["RewardService"]
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 2.0


@dataclass(frozen=True)
class ChannelSecurity:
    """How to reach replicas: in the clear, or by TLS with these PEM contents; and the token to show."""

    token: str | None = None
    root_certificates: bytes | None = None
    private_key: bytes | None = None
    certificate_chain: bytes | None = None
    uses_tls: bool = False

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return () if self.token is None else (("authorization", f"Bearer {self.token}"),)

    def open(self, target: str) -> aio.Channel:
        if not self.uses_tls:
            return aio.insecure_channel(target, options=client_options())
        credentials = grpc.ssl_channel_credentials(self.root_certificates, self.private_key, self.certificate_chain)
        return aio.secure_channel(target, credentials, options=client_options())


class Replica:
    """One replica. Lives on the background loop."""

    def __init__(self, target: str, security: ChannelSecurity) -> None:
        self.target = target
        self.outstanding_pixels = 0
        self.resting_until_s = 0.0
        self._failures = 0
        self._metadata = security.metadata
        self._channel = security.open(target)
        # Requests come as bytes (see `assay.request_bytes`), so the generated stub does not fit.
        self._methods = {
            name: self._channel.unary_unary(f"/{_SERVICE.full_name}/{name}", None, response.FromString)
            for name, response in (("Score", pb.ScoreResponse), ("ListScorers", pb.ListScorersResponse))
        }

    async def call(self, method: str, request: bytes, timeout_s: float, pixels: int = 0) -> Any:
        """Call a method of the contract. Raises: grpc.aio.AioRpcError."""
        self.outstanding_pixels += pixels
        try:
            response = await self._methods[method](request, timeout=timeout_s, metadata=self._metadata)
        finally:
            self.outstanding_pixels -= pixels
        self._failures = 0
        return response

    def rest(self, asked_s: float | None) -> None:
        """Leave the replica alone after UNAVAILABLE. Calls that failed together count as one failure."""
        now_s = time.monotonic()
        if now_s < self.resting_until_s:
            return
        pause_s = min(FIRST_PAUSE_S * 2**self._failures, LONGEST_PAUSE_S)
        self._failures += 1
        # Spread out: clients that were refused together must not come back together.
        pause_s = pause_s * random.uniform(0.5, 1.0) if asked_s is None else asked_s * random.uniform(1.0, 1.5)
        self.resting_until_s = now_s + pause_s

    async def close(self) -> None:
        await self._channel.close(None)


def choose(replicas: Sequence[Replica]) -> tuple[Replica, float]:
    """The replica to call next, and the seconds to wait before: 0 unless all are resting."""
    now_s = time.monotonic()
    awake = [replica for replica in replicas if replica.resting_until_s <= now_s]
    if awake:
        fewest = min(replica.outstanding_pixels for replica in awake)
        return random.choice([replica for replica in awake if replica.outstanding_pixels == fewest]), 0.0
    first = min(replicas, key=lambda replica: replica.resting_until_s)
    return first, first.resting_until_s - now_s
