"""Settings of a server: where it listens, who may call it, how much it takes on."""

import ipaddress
from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, field_validator, model_validator

from assay.config import ConfigModel
from assay.serving.client_limits import ClientLimits
from assay.serving.host_check import is_name, plain_name
from assay.serving.logs import LogFormat


class TlsConfig(ConfigModel):
    """Files in PEM form. With `client_ca`, clients must show a certificate signed by it (mutual TLS)."""

    certificate: Path
    key: Path
    client_ca: Path | None = None


class ServeConfig(ConfigModel):
    """How scorers are served. The defaults are for one machine: loopback only, no token."""

    host: str = "127.0.0.1"
    grpc_port: int = Field(default=50051, ge=0, le=65535, description="0 takes any free port")
    http_port: int | None = Field(
        default=8080, ge=0, le=65535, description="0 takes any free port; null serves no HTTP"
    )
    ready_file: Path | None = Field(default=None, description="JSON with the bound ports, written when ready")

    token: SecretStr | None = Field(
        default=None, description="bearer token that every call but health checks must carry"
    )
    token_file: Path | None = Field(
        default=None, description="file with tokens, `TOKEN` or `NAME TOKEN` a line, read again when it changes"
    )
    max_failed_attempts_per_minute: int = Field(
        default=20, ge=1, description="calls without a right token that an address may make before it is told to wait"
    )
    tls: TlsConfig | None = None
    insecure: bool = Field(default=False, description="allow a non-loopback host with neither token nor TLS")
    allowed_hosts: tuple[str, ...] = Field(
        default=(), description="names, beside localhost, that browsers may call it by with neither token nor TLS"
    )

    max_queued_items: int = Field(
        default=4096, ge=1, description="items admitted and not yet answered; more is refused"
    )
    max_queued_pixels: int = Field(default=2**30, ge=1, description="their pixels: 2^30 are 3 GiB of memory")
    max_bytes_in_flight: int = Field(default=2**30, ge=1, description="image bytes of calls that are being answered")
    max_batch_items: int = Field(default=64, ge=1, description="items the model gets at once")
    max_batch_pixels: int = Field(
        default=2**24, ge=1, description="pixels the model gets at once: 64 images of 512 x 512"
    )
    max_message_bytes: int | None = Field(
        default=None, ge=1, description="per call; null takes the largest scorer limit"
    )
    max_cache_bytes: int = Field(
        default=0, ge=0, description="scores kept for items that come again, of deterministic scorers; 0 keeps none"
    )
    client_limits: ClientLimits = Field(default_factory=ClientLimits, description="what one client may take")
    decode_threads: int = Field(default=4, ge=1, le=64)

    log_format: LogFormat = Field(default="text", description="text for people, json for machines")

    drain_notice_s: float = Field(default=0.5, ge=0, description="between NOT_SERVING and refusing new calls")
    drain_grace_s: float = Field(default=30.0, ge=0, description="for calls under way to end after SIGTERM")

    @property
    def has_guard(self) -> bool:
        """Whether a token or a certificate stands between strangers and the scorers."""
        return self.token is not None or self.token_file is not None or self.tls is not None

    @field_validator("allowed_hosts")
    @classmethod
    def _are_names(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if not is_name(plain_name(host)):
                raise ValueError(
                    f"{host!r} is no host name: without scheme, port and wildcards, in ASCII, such as rewards.example"
                )
        return tuple(plain_name(host) for host in hosts)

    @model_validator(mode="after")
    def _is_safe(self) -> Self:
        if self.token is not None and self.token_file is not None:
            raise ValueError("give token or token_file, not both")
        if self.token is not None and not self.token.get_secret_value().strip():
            raise ValueError("token is empty; leave it out or give it a value")
        if not (is_loopback(self.host) or self.has_guard or self.insecure):
            raise ValueError(
                f"host {self.host} is reachable from other machines; give token, token_file or tls, or insecure: true"
            )
        return self


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a socket bound to `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
