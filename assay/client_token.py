"""The token that a client shows: given as it is, or in a file that may be replaced while the client runs."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from assay.errors import ConfigError
from assay.watched_files import WatchedFiles


def token_arguments(token: str | None = None) -> dict[str, Any]:
    """Arguments of `RewardClient`: the token if one is given, else ASSAY_TOKEN, else the file ASSAY_TOKEN_FILE."""
    if token is not None or (token := os.environ.get("ASSAY_TOKEN") or None):
        return {"token": token}
    path = os.environ.get("ASSAY_TOKEN_FILE")
    return {"token_file": Path(path)} if path else {}


def token_source(token: str | None, token_file: Path | str | None) -> Callable[[bool], str | None]:
    """Gives the token to show now; asked with True, it looks at the file even if it did so a moment ago.

    Raises:
        ConfigError: there are two, or there is none where one should be, or no header can hold it.
    """
    if token_file is None:
        checked = None if token is None else _check(token, "token")
        return lambda at_once: checked
    if token is not None:
        raise ConfigError("give token or token_file, not both", reason="CONFIG_INVALID")
    path = Path(token_file)
    watched = WatchedFiles([path], lambda: read_token(path), lambda: None)
    return lambda at_once: watched.current(at_once=at_once)


def read_token(path: Path, where: str = "token_file") -> str:
    """Raises: ConfigError: the file cannot be read, or holds no token. `where` is what users know the file by."""
    try:
        token = path.read_text()
    except OSError as error:
        raise ConfigError(f"{where} = {path}: {error.strerror}", reason="TOKEN_UNREADABLE") from error
    except UnicodeDecodeError:
        raise ConfigError(f"{where} = {path}: it is no text in UTF-8", reason="TOKEN_UNREADABLE") from None
    if not token.strip():
        raise ConfigError(f"{where} = {path} holds no token", reason="TOKEN_EMPTY")
    return _check(token, f"{where} = {path}")


def _check(token: str, where: str) -> str:
    token = token.strip()  # files end with a new line
    if not token:
        raise ConfigError(f"{where} is empty; leave it out or give it a value", reason="TOKEN_EMPTY")
    if not all("!" <= character <= "~" for character in token):
        message = f"{where} (not shown): must be printable ASCII without white space"
        raise ConfigError(message, reason="TOKEN_MALFORMED")
    return token
