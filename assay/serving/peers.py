"""The other side of a connection, as gRPC names it."""

from urllib.parse import unquote


def address_of(peer: str) -> str:
    """`ipv4:10.0.0.1:5000` -> `10.0.0.1`: without the port, which differs from connection to connection."""
    kind, _, rest = peer.partition(":")
    return unquote(rest).rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else peer
