"""Ask a server for its health, as containers and scripts do: `python -m assay.serving.probe HOST:PORT [SERVICE]`.

It prints one line. Exit codes: 0 only if it is SERVING; 1 if it is not, or does not answer in time; 2 wrong arguments.
Health checks need no token. Where the server speaks TLS, the environment names PEM files: `ASSAY_PROBE_CA` of the
authority, and for mutual TLS `ASSAY_PROBE_CERTIFICATE` and `ASSAY_PROBE_KEY`; the certificate must be for HOST.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

DEADLINE_S = 2.0
USAGE = "usage: python -m assay.serving.probe HOST:PORT [SERVICE]"


def health_of(target: str, service: str = "", deadline_s: float = DEADLINE_S) -> str:
    """`SERVING`, another state of the health protocol, or why there was no answer: `UNAVAILABLE: ...`."""
    with _channel(target) as channel:
        try:
            request = health_pb2.HealthCheckRequest(service=service)
            response = health_pb2_grpc.HealthStub(channel).Check(request, timeout=deadline_s)
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(response.status))


def _channel(target: str) -> grpc.Channel:
    # A proxy of the environment is for the way out, not for asking a neighbour how it is.
    options = [("grpc.enable_http_proxy", 0)]
    named = [os.environ.get(f"ASSAY_PROBE_{what}") for what in ("CA", "KEY", "CERTIFICATE")]
    if not any(named):
        return grpc.insecure_channel(target, options)
    contents = [Path(name).read_bytes() if name else None for name in named]
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(*contents), options)


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    if len(arguments) not in (1, 2):
        print(USAGE, file=sys.stderr)
        return 2
    target, service = (*arguments, "")[:2]
    state = health_of(target, service)
    print(" ".join([*arguments, state]))
    return 0 if state == "SERVING" else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
