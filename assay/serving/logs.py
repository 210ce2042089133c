"""Logs on stderr, as text or as one JSON object a line, each line with the id of the call it is about."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal

from assay.serving.current_call import current_call

LogFormat = Literal["text", "json"]
_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def configure_logging(log_format: LogFormat = "text", level: str = "INFO") -> None:
    """Log to stderr; stdout is for the ready line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter(_TEXT))
    logging.basicConfig(level=level, handlers=[handler])


class TextFormatter(logging.Formatter):
    """A line for people, with the id of the call at its end."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        request_id = _request_id(record)
        return super().formatMessage(record) + (f" [request {request_id}]" if request_id else "")


class JsonFormatter(logging.Formatter):
    """A line for machines: time, level, logger, message, and request_id, caller and exception where there are any."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": _request_id(record),
            "caller": current_call().caller,
            "exception": self.formatException(record.exc_info) if record.exc_info else None,
        }
        return json.dumps({name: value for name, value in line.items() if value})


def _request_id(record: logging.LogRecord) -> str:
    """Of the record, where it is about calls of other tasks; else of the call that this task answers."""
    return getattr(record, "request_id", "") or current_call().request_id
