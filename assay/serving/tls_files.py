"""TLS from files that may be replaced while the server runs: each new connection gets what they say then."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import grpc

from assay.errors import ConfigError
from assay.serving.metrics import Metrics
from assay.serving.settings import TlsConfig
from assay.watched_files import WatchedFiles


@dataclass(frozen=True, eq=False)
class TlsMaterial:
    """One state of the files, in the forms that the two doors want."""

    for_grpc: grpc.ServerCertificateConfiguration
    for_http: ssl.SSLContext


def watch_tls(tls: TlsConfig, metrics: Metrics) -> WatchedFiles[TlsMaterial]:
    """Raises: ConfigError: a file cannot be read, or key and certificate do not belong together."""
    paths = [path for path in (tls.certificate, tls.key, tls.client_ca) if path is not None]
    return WatchedFiles(paths, lambda: _read(tls), metrics.failed_reloads.labels("tls").inc)


def grpc_credentials(files: WatchedFiles[TlsMaterial], wants_client: bool, metrics: Metrics) -> grpc.ServerCredentials:
    """Asks `files` at each handshake, and counts it: gRPC does not tell how it ends."""
    begun = metrics.tls_handshakes.labels("grpc")
    sent = files.current()

    def latest() -> grpc.ServerCertificateConfiguration | None:
        nonlocal sent
        begun.inc()
        current = files.current()
        if current is sent:
            return None  # which means: as before
        sent = current
        return current.for_grpc

    # The stubs do not know that None is allowed.
    fetch = cast(Callable[[], grpc.ServerCertificateConfiguration], latest)
    return grpc.dynamic_ssl_server_credentials(sent.for_grpc, fetch, require_client_authentication=wants_client)


def http_context(files: WatchedFiles[TlsMaterial], metrics: Metrics) -> ssl.SSLContext:
    """A context that hands each connection on to the one that `files` holds then, and counts it."""
    begun = metrics.tls_handshakes.labels("http")
    context = files.current().for_http

    def latest(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        begun.inc()
        connection.context = files.current().for_http

    context.sni_callback = latest  # called with each handshake, whether or not it names a server
    return context


def _read(tls: TlsConfig) -> TlsMaterial:
    try:
        key, certificate = tls.key.read_bytes(), tls.certificate.read_bytes()
        client_ca = tls.client_ca.read_bytes() if tls.client_ca is not None else None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(tls.certificate, tls.key)
        if tls.client_ca is not None:
            context.load_verify_locations(tls.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except ssl.SSLError as error:
        message = f"tls: {tls.certificate}, {tls.key} and client_ca do not go together: {error.reason}"
        raise ConfigError(message, reason="TLS_UNREADABLE") from error
    except OSError as error:
        raise ConfigError(f"tls: cannot read {error.filename}: {error.strerror}", reason="TLS_UNREADABLE") from error
    return TlsMaterial(grpc.ssl_server_certificate_configuration([(key, certificate)], client_ca), context)
