"""What a client has done so far, for logs and for people who wonder."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class AnsweredCall:
    """One call that was answered: the client's wait, retries included, and what the service says of its own part.

    Args:
        seconds: until the answer.
        images: items of the call.
        queue_s, decode_s, infer_s, total_s: in the service.
        batch_items: items that the model got at once, those of other calls included.
    """

    seconds: float
    images: int
    queue_s: float
    decode_s: float
    infer_s: float
    total_s: float
    batch_items: int


@dataclass(frozen=True)
class ReplicaStatistics:
    """One replica: calls sent to it, how often it refused or lost some, and whether it is called now."""

    calls: int
    failures: int
    is_up: bool


@dataclass(frozen=True)
class ClientStatistics:
    """One client.

    Args:
        calls: calls to the service, each with up to `batch_items` images.
        retried: attempts made again because a replica was unavailable.
        hedged: second copies of calls that were late.
        hedges_won: those that were answered first.
        replicas: address -> what became of it; those that are gone are left out.
    """

    calls: int
    retried: int
    hedged: int
    hedges_won: int
    replicas: Mapping[str, ReplicaStatistics]
