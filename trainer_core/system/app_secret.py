"""The secret behind every browser's cookie. A new one signs all browsers out, whether the app is open or not."""

from __future__ import annotations

import secrets
from pathlib import Path

from trainer_core.system.durable import write_atomically

SECRET_FILE = "app.secret"
SECRET_BITS = 256


def renew_secret(workspace: Path) -> None:
    """Make the secret anew: no cookie of before opens anything from the next request on.

    Raises:
        DiskError: it cannot be written; the one before is still in force.
    """
    write_atomically(workspace / SECRET_FILE, secrets.token_hex(SECRET_BITS // 8))


class AppSecret:
    """The secret as the file says now; kept from start to start, so that a page that is open outlives the app."""

    def __init__(self, workspace: Path):
        self._workspace, self._stamp, self._value = workspace, (0, 0, 0), ""

    @property
    def value(self) -> str:
        """Looked up at each request, since another process may have renewed it."""
        file = self._workspace / SECRET_FILE
        if not file.exists():
            renew_secret(self._workspace)
        about = file.stat()
        stamp = (about.st_mtime_ns, about.st_ino, about.st_size)
        if stamp != self._stamp:
            self._value, self._stamp = file.read_text(encoding="utf-8"), stamp
        return self._value
