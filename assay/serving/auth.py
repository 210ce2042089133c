"""Who is calling: every gRPC method and HTTP path wants a bearer token, but for health and the files of the page.

The tokens of a file are read again when it changes. A peer that fails too often is told to wait; a right token is
looked for first, so those behind the same proxy who have one are not kept out.
"""

from collections.abc import Callable, Sequence
from itertools import product

from assay.serving.failed_attempts import FailedAttempts
from assay.serving.metrics import Metrics
from assay.serving.rejection import Rejection
from assay.serving.settings import ServeConfig
from assay.serving.tokens import Token, find_holder, make_token, read_tokens
from assay.watched_files import WatchedFiles

#: Not `List`: names are for those who know them, or have the token.
OPEN_GRPC_METHODS = frozenset({"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"})


class Authenticator:
    """Checks the `authorization` header of calls. Without tokens every call passes.

    Args:
        tokens: gives those that are right now, or None.
        attempts: remembers who failed.
        metrics: counts who failed.
    """

    def __init__(
        self, tokens: Callable[[], Sequence[Token]] | None, attempts: FailedAttempts, metrics: Metrics
    ) -> None:
        self._tokens = tokens
        self._attempts = attempts
        self._metrics = metrics
        if tokens is not None:
            for door, why in product(("grpc", "http"), ("TOKEN_MISSING", "TOKEN_WRONG")):
                metrics.failed_authentications.labels(door, why)  # 0 from the start: see Metrics

    @classmethod
    def from_config(cls, config: ServeConfig, metrics: Metrics) -> "Authenticator":
        """Raises: ConfigError: the token file cannot be read, or is empty."""
        return cls(_tokens(config, metrics), FailedAttempts(config.max_failed_attempts_per_minute), metrics)

    def identify(self, authorization: str | bytes | None) -> str:
        """The name of the token's holder; empty if no token is wanted. Raises: Rejection: UNAUTHENTICATED."""
        if self._tokens is None:
            return ""
        if authorization is None:
            raise Rejection("UNAUTHENTICATED", "TOKEN_MISSING", "send the header `authorization: Bearer <token>`")
        given = authorization.encode("utf-8", "replace") if isinstance(authorization, str) else authorization
        holder = find_holder(self._tokens(), given)
        if holder is None:
            raise Rejection("UNAUTHENTICATED", "TOKEN_WRONG", "the bearer token is not one of this service")
        return holder

    def count_failure(self, rejection: Rejection, peer: str, door: str) -> Rejection:
        """Take note of a failure; what to answer.

        Args:
            rejection: what `identify` raised.
            peer: address of the other side, without its port.
            door: `grpc` or `http`.
        """
        self._metrics.failed_authentications.labels(door, rejection.reason).inc()
        wait_s = self._attempts.add(peer)
        if wait_s is None:
            return rejection
        message = f"too many calls without a right token; wait {wait_s:.0f} s, or show a right one"
        return Rejection("RESOURCE_EXHAUSTED", "TOO_MANY_FAILED_ATTEMPTS", message, retry_after_s=wait_s)


def _tokens(config: ServeConfig, metrics: Metrics) -> Callable[[], Sequence[Token]] | None:
    if (path := config.token_file) is not None:
        failed = metrics.failed_reloads.labels("token_file")
        return WatchedFiles([path], lambda: read_tokens(path), failed.inc).current
    if config.token is None:
        return None
    token = make_token("token", config.token.get_secret_value().strip(), "token")
    return lambda: (token,)
