"""Bearer tokens: every gRPC method and HTTP path needs the token, except health checks."""

import hmac
from pathlib import Path

from assay.errors import ConfigError
from assay.serving.rejection import Rejection
from assay.serving.settings import ServeConfig

OPEN_GRPC_SERVICE = "/grpc.health.v1.Health/"
OPEN_HTTP_PATHS = frozenset({"/healthz", "/readyz"})


class Authenticator:
    """Checks the `authorization` header of a call. Without a token every call passes.

    Args:
        token: the secret, or None. An empty one is refused: it would be no secret.
    """

    def __init__(self, token: str | None) -> None:
        if token is not None and not token:
            raise ConfigError("the token is empty; leave it out or give it a value", reason="TOKEN_EMPTY")
        self._expected = None if token is None else f"Bearer {token}".encode()

    @classmethod
    def from_config(cls, config: ServeConfig) -> "Authenticator":
        """Raises: ConfigError: the token file cannot be read, or is empty."""
        if config.token_file is not None:
            return cls(_read_token(config.token_file))
        return cls(config.token.get_secret_value().strip() if config.token is not None else None)

    def check(self, authorization: str | bytes | None) -> None:
        """Compare in constant time. Raises: Rejection: UNAUTHENTICATED."""
        if self._expected is None:
            return
        given = authorization.encode("utf-8", "replace") if isinstance(authorization, str) else authorization
        if given is None:
            raise Rejection("UNAUTHENTICATED", "TOKEN_MISSING", "send the header `authorization: Bearer <token>`")
        if not hmac.compare_digest(given, self._expected):
            raise Rejection("UNAUTHENTICATED", "TOKEN_WRONG", "the bearer token is not the one of this service")


def _read_token(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise ConfigError(f"token_file = {path}: {error.strerror}", reason="TOKEN_UNREADABLE") from error
