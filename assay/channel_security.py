"""How a client shows who it is, and knows whom it calls: a token and TLS, from files that may be replaced meanwhile."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc import aio

from assay.client_tls import check_tls
from assay.client_token import token_source
from assay.errors import ConfigError
from assay.grpc_options import client_options
from assay.watched_files import WatchedFiles


@dataclass(frozen=True, eq=False)
class TlsContents:
    """One state of the files, in PEM form."""

    root_certificates: bytes
    private_key: bytes | None
    certificate_chain: bytes | None


class ChannelSecurity:
    """How to reach replicas: in the clear, or by TLS; and the token to show.

    Args:
        token: gives the token that is right now, or None; see `assay.client_token.token_source`.
        tls: the files; None for calls in the clear.
    """

    def __init__(
        self,
        token: Callable[[bool], str | None] = lambda at_once: None,
        tls: WatchedFiles[TlsContents] | None = None,
    ) -> None:
        self._token = token
        self._tls = tls

    @classmethod
    def from_files(
        cls,
        token: str | None,
        token_file: Path | str | None,
        tls_ca: Path | str | None,
        tls_certificate: Path | str | None,
        tls_key: Path | str | None,
    ) -> "ChannelSecurity":
        """Raises: ConfigError: a file cannot be read, or what is given does not go together."""
        check_tls(tls_ca, tls_certificate, tls_key)
        shown = token_source(token, token_file)
        if tls_ca is None:
            return cls(shown)
        ca, pair = Path(tls_ca), None
        if tls_certificate is not None and tls_key is not None:
            pair = Path(tls_certificate), Path(tls_key)
        return cls(shown, WatchedFiles([ca, *(pair or ())], lambda: _read(ca, pair), lambda: None))

    def metadata(self, *, at_once: bool = False) -> tuple[tuple[str, str], ...]:
        """What to show with a call; `at_once`: the file of the token is looked at, even if it was a moment ago."""
        token = self._token(at_once)
        return () if token is None else (("authorization", f"Bearer {token}"),)

    @property
    def tls(self) -> TlsContents | None:
        """What new connections are to be made with: another object after the files have changed."""
        return None if self._tls is None else self._tls.current()

    def open(self, target: str, authority: str | None) -> tuple[aio.Channel, TlsContents | None]:
        """A channel, and what it makes its connections with. gRPC takes no other contents for it later."""
        options, tls = client_options(authority), self.tls
        if tls is None:
            return aio.insecure_channel(target, options=options), None
        credentials = grpc.ssl_channel_credentials(tls.root_certificates, tls.private_key, tls.certificate_chain)
        return aio.secure_channel(target, credentials, options=options), tls


def _read(ca: Path, pair: tuple[Path, Path] | None) -> TlsContents:
    """Files that do not go together would only be noticed when no connection succeeds. `pair`: certificate, key."""
    try:
        chain, key = (None, None) if pair is None else (pair[0].read_bytes(), pair[1].read_bytes())
        contents = TlsContents(ca.read_bytes(), key, chain)
        context = ssl.create_default_context(cafile=ca)
        if pair is not None:
            context.load_cert_chain(*pair, password="")  # of an encrypted key nobody can be asked
    except ssl.SSLError as error:
        named = ", ".join(str(path) for path in (ca, *(pair or ())))
        message = f"tls: {named} are not in PEM form, or do not go together: {error.reason}"
        raise ConfigError(message, reason="TLS_UNREADABLE") from error
    except OSError as error:
        raise ConfigError(f"cannot read {error.filename}: {error.strerror}", reason="TLS_UNREADABLE") from error
    return contents
