"""Why a whole call is refused. Raised anywhere on the path of a call, turned into a status at the gRPC or HTTP edge."""

from collections.abc import Mapping


class Rejection(Exception):
    """A call is refused as a whole.

    Args:
        code: canonical status name, e.g. `UNAVAILABLE`.
        reason: reason in UPPER_SNAKE; the stable name of the error.
        message: one sentence for a person.
        metadata: the changing values that the message names, for machines.
        retry_after_s: when to try again; only with `UNAVAILABLE`.
    """

    def __init__(
        self,
        code: str,
        reason: str,
        message: str,
        metadata: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})
        self.retry_after_s = retry_after_s
