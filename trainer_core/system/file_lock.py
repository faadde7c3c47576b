"""Locks between processes: the operating system's, released when the process ends, however it ends."""

from __future__ import annotations

import errno
from typing import Any

from filelock import AcquireReturnProxy, FileLock

from trainer_core.errors import DiskError

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""Errors of file systems without locks, such as some network drives."""


class ProcessLock(FileLock):
    """A lock that says why it cannot be had where the file system has no locks."""

    def acquire(self, *args: Any, **options: Any) -> AcquireReturnProxy:
        """Raises Timeout if another process holds it for longer, and DiskError if there are no locks here."""
        try:
            return super().acquire(*args, **options)
        except NotImplementedError as error:
            raise DiskError("disk.no_locks", path=self.lock_file) from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            raise DiskError("disk.no_locks", path=self.lock_file) from error
