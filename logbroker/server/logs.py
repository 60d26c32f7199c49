"""How the server writes its log: one line an event, as text or as JSON, on standard error."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from logbroker.config.settings import LogSettings


def _time(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"


@final
class TextFormatter(logging.Formatter):
    """`time level logger event key=value ...`."""

    def format(self, record: logging.LogRecord) -> str:
        line = f"{_time(record)} {record.levelname.lower():<7} {record.name} {record.getMessage()}"
        return line if record.exc_info is None else f"{line}\n{self.formatException(record.exc_info)}"


@final
class JsonFormatter(logging.Formatter):
    """One object a line; `event` is the first word of the message, which holds the fields."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        fields = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": message.partition(" ")[0],
            "message": message,
        }
        if record.exc_info is not None:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)


def configure_logging(settings: LogSettings) -> None:
    """Send everything of this process to standard error; what was set up before is replaced."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if settings.format == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.level.upper())
    # It tells of every frame.
    logging.getLogger("trio-websocket").setLevel(logging.WARNING)
