"""How batch jobs reach a reward service, and what they record of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from assay.client import RewardClient
from assay.client_token import token_arguments
from assay.errors import ConfigError, ServiceFailedError
from assay.outcomes import Failed, Outcome, Scored
from pipelines.engine.stage import UnitError

WAIT_FOR_SERVICE_S = 60.0


@dataclass(frozen=True)
class ServiceAddress:
    """Where a service is. A token is taken from the environment (`assay.client_token`).

    Args:
        targets: addresses of its replicas.
        deadline_s: for one call, all retries included.
        tls_files: `tls_ca`, `tls_certificate` and `tls_key` of `RewardClient`; in the clear without them.
    """

    targets: tuple[str, ...]
    deadline_s: float
    tls_files: Mapping[str, Any] = field(default_factory=dict)

    def connect(self) -> RewardClient:
        return RewardClient(self.targets, deadline_s=self.deadline_s, **token_arguments(), **self.tls_files)

    def fingerprints(self, scorers: Sequence[str]) -> dict[str, str]:
        """Of each scorer: what was judged by another one counts as not done.

        Raises:
            ServiceUnavailableError: no service answers.
            ConfigError: it does not serve a scorer.
        """
        with self.connect() as client:
            served = {info.name: info.fingerprint for info in client.wait_until_ready(WAIT_FOR_SERVICE_S)}
        for scorer in scorers:
            if scorer not in served:
                raise ConfigError(f"scorer = {scorer!r}; allowed: {', '.join(sorted(served))}")
        return {scorer: served[scorer] for scorer in scorers}


def score_of(outcome: Outcome, name: str) -> Scored:
    """The outcome, if it is a score.

    Args:
        outcome: of one item.
        name: of what was judged or of who judged, for the error.

    Raises:
        UnitError: there will be none.
        ServiceFailedError: there is none, and there may be one later.
    """
    if isinstance(outcome, Failed):
        raise failure_of(outcome, name)
    return outcome


def failure_of(failed: Failed, name: str) -> UnitError | ServiceFailedError:
    """What to raise for it: an item at fault stays so, all else may pass."""
    said = f"{name}: {failed.code} {failed.reason}: {failed.message}"
    return UnitError(said) if failed.code == "INVALID_ARGUMENT" else ServiceFailedError(said, reason=failed.reason)
