"""Which names a browser may call a server by that has neither token nor TLS.

A foreign page can have its own name point at 127.0.0.1 (DNS rebinding); the browser then takes the server for a part of
that page, and lets the page read its answers. But the `Host` header still says whose name it was. Addresses pass: a
page that was loaded from an address cannot have it point elsewhere.
"""

import ipaddress
import re
from collections.abc import Callable, Collection

from assay.serving.rejection import Rejection

_HOST = re.compile(r"(\[(?P<address>[^\[\]%]+)\]|(?P<name>[^\[\]:]+))(:[0-9]*)?")
_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")


def plain_name(name: str) -> str:
    """A host's name as it is compared: in lower case, without the dot of the root."""
    return name.lower().removesuffix(".")


def is_name(name: str) -> bool:
    """Whether a plain name could be one that a browser sends, which writes others than ASCII in Punycode."""
    return _NAME.fullmatch(name) is not None


def check_host(header: str, allowed: Collection[str]) -> None:
    """Check a `Host` header, with a port or without.

    Args:
        header: empty if there was none.
        allowed: plain names that are right beside localhost.

    Raises:
        Rejection: HOST_UNKNOWN: it is another name, or none.
    """
    if _is_right(header.strip(" \t"), allowed):
        return
    known = ", ".join(["localhost", *allowed])
    raise Rejection(
        "FAILED_PRECONDITION",
        "HOST_UNKNOWN",
        f"Host = {header[:255]!r}: without token and TLS it must be {known} or an address; see allowed_hosts",
        {"host": header[:255]},
    )


def _is_right(host: str, allowed: Collection[str]) -> bool:
    matched = _HOST.fullmatch(host)
    if matched is None:
        return False
    if matched["address"]:
        return _is_address(matched["address"], ipaddress.IPv6Address)
    name = plain_name(matched["name"])
    is_ours = name == "localhost" or name.endswith(".localhost") or name in allowed
    return is_name(name) and (is_ours or _is_address(name, ipaddress.IPv4Address))


def _is_address(text: str, kind: Callable[[str], object]) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return True
