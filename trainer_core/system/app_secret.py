"""The secret behind every browser's cookie. Renewing it signs all browsers out, even while the app runs."""

from __future__ import annotations

import secrets
from pathlib import Path

from trainer_core.system.durable import write_atomically

SECRET_FILE = "app.secret"
SECRET_BITS = 256


def renew_secret(workspace: Path) -> None:
    """Replace the secret: from the next request on, earlier cookies are invalid.

    Raises:
        DiskError: it cannot be written; the previous secret stays valid.
    """
    write_atomically(workspace / SECRET_FILE, secrets.token_hex(SECRET_BITS // 8))


class AppSecret:
    """The secret from its file. It outlives the app, so an open page stays signed in after a restart."""

    def __init__(self, workspace: Path):
        self._workspace, self._stamp, self._value = workspace, (0, 0, 0), ""

    @property
    def value(self) -> str:
        """Read again after a change, because another process can renew it."""
        file = self._workspace / SECRET_FILE
        if not file.exists():
            renew_secret(self._workspace)
        about = file.stat()
        stamp = (about.st_mtime_ns, about.st_ino, about.st_size)
        if stamp != self._stamp:
            self._value, self._stamp = file.read_text(encoding="utf-8"), stamp
        return self._value
