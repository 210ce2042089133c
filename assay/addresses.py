"""From the targets that users give to the addresses of replicas: a name may stand for several.

One name with several addresses is what `docker compose --scale` and a headless service of Kubernetes make. Each address
is then a replica. A name with one address is left as it is, and so is a host that has one of each family: those are
the same server, and gRPC tries both.
"""

import ipaddress
import re
import socket
from collections.abc import Callable, Sequence

from assay.replicas import Address

#: (host, port) -> IP addresses. May block; raises OSError if the name cannot be looked up.
Resolver = Callable[[str, int], Sequence[str]]

_NAME_AND_PORT = re.compile(r"(?:dns:(?:///)?)?(?P<host>[^:/\[\]]+):(?P<port>\d+)")


def resolve(host: str, port: int) -> list[str]:
    """The system's answer: DNS, /etc/hosts and what else it is set up for."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[4][0]) for address in found]


def is_name(target: str) -> bool:
    """Whether a target is `NAME:PORT` or `dns:///NAME:PORT`; IP addresses, sockets and other schemes are not."""
    match = _NAME_AND_PORT.fullmatch(target)
    if match is None:
        return False
    try:
        ipaddress.ip_address(match["host"])
    except ValueError:
        return True
    return False


def look_up(target: str, resolver: Resolver) -> list[Address]:
    """The replicas behind a target. Raises: OSError: its name cannot be looked up."""
    match = _NAME_AND_PORT.fullmatch(target)
    if match is None or not is_name(target):
        return [Address(target)]
    found = {ipaddress.ip_address(address) for address in resolver(match["host"], int(match["port"]))}
    version4 = [str(address) for address in found if address.version == 4]
    version6 = [f"[{address}]" for address in found if address.version == 6]
    several = version6 if len(version6) > len(version4) else version4
    if len(several) < 2:
        return [Address(target)]
    return [Address(f"{host}:{match['port']}", f"{match['host']}:{match['port']}") for host in sorted(several)]
