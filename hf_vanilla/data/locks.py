"""One writer at a time."""

import contextlib
import errno
import logging
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

logger = logging.getLogger(__name__)
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
"""What a file system answers that has no locks, such as NFS without its lock daemon."""


@contextlib.contextmanager
def alone_at(lock: Path, busy: str) -> Iterator[None]:
    """Hold the file `lock`, then delete it; if another process holds it, raise a `ValueError` that says `busy`.

    A process that was killed holds nothing. Where the file system has no locks, the file itself is one: what a process
    that was killed on another machine has left must then be deleted by hand.
    """
    held = FileLock(lock, timeout=0)
    try:
        try:
            held.acquire()
        except (OSError, NotImplementedError) as error:
            if isinstance(error, Timeout) or (isinstance(error, OSError) and error.errno not in NO_LOCKS):
                raise
            held = SoftFileLock(lock, timeout=0)
            logger.warning("%s: this file system has no locks; while the file is there, others keep away", lock)
            held.acquire()
    except Timeout:
        raise ValueError(f"{busy} (it holds {lock})") from None
    try:
        yield
    finally:
        # Before it is released: afterwards it may be another's.
        lock.unlink(missing_ok=True)
        held.release()
