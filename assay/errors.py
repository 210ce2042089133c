"""Every error that Assay raises on purpose. Each is an `AssayError`, and also the standard type it resembles.

    AssayError
    ├── ConfigError (ValueError)                   a setting is unknown, missing or out of range
    ├── InvalidRequestError (ValueError)           the call as a whole makes no sense
    │   └── RequestTooLargeError                   ... because it exceeds the message size limit
    ├── ScorerNotFoundError (LookupError)          no scorer of that name is served there
    ├── AuthenticationError (PermissionError)      the token is missing or wrong
    ├── FingerprintMismatchError (RuntimeError)    the scorer is not the one that was pinned
    ├── ServiceUnavailableError (ConnectionError)  no replica could be reached, or all were full, to the deadline
    ├── DeadlineExceededError (TimeoutError)       no answer in time, or refused as too late
    ├── ServiceFailedError (RuntimeError)          the service failed inside; its log holds the details
    ├── ScoringFailedError (RuntimeError)          an item has no score and the policy is `raise`
    └── ClientClosedError (RuntimeError)           the client was closed

The failure of a single item is no exception but an `assay.outcomes.Failed`.
"""

from collections.abc import Sequence


class AssayError(Exception):
    """The root.

    Args:
        message: for a person; names what was wrong and what is allowed.
        reason: machine-readable reason in UPPER_SNAKE (AIP-193), empty if none was given.
        targets: the services that were called, e.g. ("localhost:50051",).
    """

    def __init__(self, message: str, *, reason: str = "", targets: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.reason = reason
        self.targets = tuple(targets)


class ConfigError(AssayError, ValueError):
    """A setting is unknown, missing or out of range."""


class InvalidRequestError(AssayError, ValueError):
    """The call as a whole makes no sense."""


class RequestTooLargeError(InvalidRequestError):
    """The request exceeds the message size limit; never retried."""


class ScorerNotFoundError(AssayError, LookupError):
    """No scorer of that name is served there."""


class AuthenticationError(AssayError, PermissionError):
    """The token is missing or wrong."""


class FingerprintMismatchError(AssayError, RuntimeError):
    """The scorer is not the one that was pinned: its scores may differ."""


class ServiceUnavailableError(AssayError, ConnectionError):
    """No replica could be reached, or all were full, until the deadline."""


class DeadlineExceededError(AssayError, TimeoutError):
    """No answer in time, or the service refused because it could not answer in time."""


class ServiceFailedError(AssayError, RuntimeError):
    """The service failed inside; the message carries the id under which its log holds the details."""


class ScoringFailedError(AssayError, RuntimeError):
    """An item has no score, and the failure policy is `raise`."""


class ClientClosedError(AssayError, RuntimeError):
    """The client was closed."""
