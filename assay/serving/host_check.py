"""Which names a browser may call a server by that has neither token nor TLS.

A foreign page can have its own name point at 127.0.0.1 (DNS rebinding); the browser then takes the server for a part of
that page, and lets the page read its answers. But the `Host` header still says whose name it was. Addresses pass: a
page that was loaded from an address cannot have it point elsewhere.
"""

import ipaddress
import re
from collections.abc import Collection

from assay.serving.rejection import Rejection

_HOST = re.compile(r"(?P<name>\[[^\[\]]*\]|[^\[\]:]*)(:\d*)?")


def check_host(header: str, allowed: Collection[str]) -> None:
    """Check a `Host` header, with a port or without.

    Args:
        header: empty if there was none.
        allowed: names that are right beside localhost.

    Raises:
        Rejection: HOST_UNKNOWN: it is another name.
    """
    matched = _HOST.fullmatch(header)
    name = matched["name"].strip("[]").lower().removesuffix(".") if matched else ""
    if name == "localhost" or name.endswith(".localhost") or name in allowed or _is_address(name):
        return
    known = ", ".join(["localhost", *allowed])
    raise Rejection(
        "FAILED_PRECONDITION",
        "HOST_UNKNOWN",
        f"Host = {header[:255]!r}: without token and TLS it must be {known} or an address; see allowed_hosts",
        {"host": header[:255]},
    )


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
