"""Bearer tokens and the names of those who hold them. A file may hold several, so that old and new can overlap."""

import hashlib
import hmac
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from assay.errors import ConfigError

logger = logging.getLogger("assay.serving")

ENOUGH_CHARACTERS = 16
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Token:
    """A secret, by its digest alone, and the name under which logs and limits know who holds it."""

    name: str
    digest: bytes


def make_token(name: str, secret: str, where: str) -> Token:
    """Raises: ConfigError: the secret is empty."""
    if not secret:
        raise ConfigError(f"{where}: the token is empty; leave it out or give it a value", reason="TOKEN_EMPTY")
    if len(secret) < ENOUGH_CHARACTERS:
        logger.warning("%s: a token of less than %d characters can be guessed", where, ENOUGH_CHARACTERS)
    return Token(name, _digest(secret.encode()))


def read_tokens(path: Path) -> tuple[Token, ...]:
    """A token a line: `TOKEN`, or `NAME TOKEN`; empty lines and those that start with # are passed over.

    One without a name is called `token-` and the first eight hexadecimal digits of its SHA-256.

    Raises:
        ConfigError: the file cannot be read, or a line is neither, or there is no token.
    """
    where = f"token_file = {path}"
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise ConfigError(f"{where}: {error.strerror}", reason="TOKEN_UNREADABLE") from error
    except UnicodeDecodeError:
        raise ConfigError(f"{where}: it is no text in UTF-8", reason="TOKEN_UNREADABLE") from None
    tokens = []
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words or line.lstrip().startswith("#"):
            continue
        name, secret = words if len(words) == 2 else (_name_of(words[0]), words[0])
        # The line is not quoted: it holds a secret.
        if len(words) > 2 or not _NAME.fullmatch(name):
            message = f"{where}, line {number}: give TOKEN, or NAME TOKEN, the name of letters, digits and ._-"
            raise ConfigError(message, reason="TOKEN_MALFORMED")
        tokens.append(make_token(name, secret, f"{where}, line {number}"))
    if not tokens:
        raise ConfigError(f"{where}: the token is empty; the file holds none", reason="TOKEN_EMPTY")
    return tuple(tokens)


def find_holder(tokens: Sequence[Token], authorization: bytes) -> str | None:
    """The name of who shows one of the tokens; None if it is none. Takes the same time wherever they differ."""
    scheme, _, secret = authorization.partition(b" ")
    given = _digest(secret)
    holder = None
    for token in tokens:
        if hmac.compare_digest(given, token.digest):
            holder = token.name
    return holder if scheme == b"Bearer" else None


def _name_of(secret: str) -> str:
    """The same wherever in the file it stands: who holds it keeps its place in logs and limits when lines come and go.

    32 bits of the digest tell nobody a secret of 16 random characters or more; a word of a dictionary they would.
    """
    return f"token-{_digest(secret.encode()).hex()[:8]}"


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()
