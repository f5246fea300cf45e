"""Folders that belong to the user, and writing files so that a reader meets the old one or the new one."""

import contextlib
import errno
import os
import sys
import tempfile
from pathlib import Path


def cache_folder() -> Path:
    """Return the user's cache folder for this library; one in the temporary folder where the user has no home."""
    if sys.platform == "win32":
        cache = Path(os.environ.get("LOCALAPPDATA", "~/AppData/Local"))
    elif sys.platform == "darwin":
        cache = Path("~/Library/Caches")
    else:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    try:
        return cache.expanduser() / "cvae_lib"
    except RuntimeError:  # containers and batch jobs: no HOME, and a user id that nobody knows
        return Path(tempfile.gettempdir()) / "cvae_lib"


def data_root(root: str | Path | None = None) -> Path:
    """Return the folder for datasets: the argument, else ``CVAE_DATA``, else the user's cache folder.

    Raises:
        ValueError: if the path begins with ``~``, and the user has no home.
    """
    path = root if root is not None else os.environ.get("CVAE_DATA") or None
    if path is None:
        return cache_folder()
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(f"There is no home folder here for {str(path)!r}; set CVAE_DATA to a full path.") from None


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that an interruption or a full disk leaves the old one in place.

    Raises:
        OSError: if the folder cannot be made or the bytes do not fit; nothing has changed then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            # Network shares refuse to flush to the disk, or to change a mode; the bytes are written all the same. But
            # some tell only now that the disk is full.
            try:
                os.fsync(file.fileno())
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                    raise
        with contextlib.suppress(OSError):
            os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
