"""Outputs that are either the old one or the new one, never half of one.

Everything is written under a temporary name in the same folder and renamed when complete. A folder that
replaces an older one is swapped in by a single system call where the kernel offers it (`renameat2` with
`RENAME_EXCHANGE`), so that no moment exists in which the name is missing.

A killed writer cannot clean up behind itself: the next writer of the same name does. The temporary name tells
whose it is (`.NAME.tmp-PID`), and a lock on it, which goes with the process, tells that its writer lives:
process numbers say little in containers that share a folder, where every writer may be number 1.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from moonrec.errors import UserError

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (
    errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EPERM, errno.ENAMETOOLONG
)  # fmt: skip


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn a full or read-only disk at `path` into a UserError; errors about other places pass."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL and _concerns(error, path):
            reason = os.strerror(error.errno).lower()
            raise UserError(f"{path}: cannot be written ({reason}); nothing was changed there") from error
        if (error.errno in _FORBIDDEN and _concerns(error, path)) or _cannot_be_made(error, path):
            reason = os.strerror(error.errno or 0).lower()
            raise UserError(f"{path}: cannot be written ({reason}); choose another output") from error
        raise


def _cannot_be_made(error: OSError, path: Path) -> bool:
    """Whether a file system without places of one's own, such as /proc, refused `path` or a folder above.

    It says "no such file", as for a file inside the output that somebody forgot to write: that is a bug.
    """
    if error.errno != errno.ENOENT or not isinstance(error.filename, str | bytes):
        return False
    named, parent = Path(os.path.abspath(os.fsdecode(error.filename))), Path(os.path.abspath(path)).parent
    return (named.parent == parent or parent.is_relative_to(named)) and _concerns(error, path)


def _concerns(error: OSError, path: Path) -> bool:
    """Whether the error is about `path`, a temporary of it or a folder above; failed writes name no file."""
    if not isinstance(error.filename, str | bytes):
        return True
    named, parent = Path(os.path.abspath(os.fsdecode(error.filename))), Path(os.path.abspath(path)).parent
    if parent.is_relative_to(named):
        return True
    entry = named.relative_to(parent).parts[0] if named.is_relative_to(parent) else ""
    return entry in (path.name, f"{path.name}.partial") or entry.startswith(f".{path.name}.")


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block ends without an error.

    Raises:
        UserError: the disk is full or the place cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    with storage_errors(path):
        _refuse_devices(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        try:
            temporary.touch()
            with _lock_of(temporary):
                yield temporary
                os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def _refuse_devices(path: Path) -> None:
    """Whoever may do anything would put a file in the place of a device such as /dev/stdout."""
    # Unlike Path.exists, these do not raise where a name is too long: the writer says so.
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise UserError(f"{path}: is a device or a pipe, which cannot be replaced by a file; name a file")


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; it becomes `path` when the block ends without an error.

    Raises:
        UserError: the disk is full or the place cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        try:
            temporary.mkdir()
        except FileExistsError as error:
            raise UserError(
                f"{path}: is being written by this very process, or a killed one left {temporary.name} on a "
                "disk without locks; in that case delete it"
            ) from error
        try:
            with _lock_of(temporary):
                yield temporary
                replace_folder(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def replace_folder(new: Path, path: Path) -> None:
    """Rename the folder `new` to `path`; a folder that was there is exchanged for it and then deleted.

    Where `path` is a link, the link is replaced and what it points at stays as it is.
    """
    if not os.path.lexists(path):
        os.rename(new, path)
        return
    if not _exchange(new, path):
        old = path.with_name(f".{path.name}.old-{os.getpid()}")
        os.rename(path, old)
        os.rename(new, path)
        new = old
    _delete(new)


def remove_leftovers(path: Path) -> None:
    """Delete what killed writers of `path` left beside it: nothing of a process that may still be alive."""
    # The `.old-` of a writer without `renameat2` is the only copy until the new folder stands at `path`.
    kinds = "tmp|old" if os.path.lexists(path) else "tmp"
    name = re.compile(re.escape(f".{path.name}.") + f"(?:{kinds})-([0-9]+)", re.ASCII)
    with os.scandir(path.parent) as entries:
        found = [(Path(entry.path), match) for entry in entries if (match := name.fullmatch(entry.name))]
    for leftover, match in found:
        if not _alive(int(match[1])):
            # Somebody else may be deleting it at this moment, too, or hold its lock.
            with suppress(OSError), _lock_of(leftover, only_if_free=True):
                _delete(leftover)


def _alive(process: int) -> bool:
    """Whether another process has this number; our own was somebody else's before, if it is not locked."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def _lock_of(temporary: Path, only_if_free: bool = False) -> Iterator[None]:
    """Hold the lock of a file or folder; where the disk has no locks, go without, or fail `only_if_free`."""
    handle = os.open(temporary, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if only_if_free:
                raise
        yield
    finally:
        os.close(handle)


def _delete(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink()


def _exchange(a: Path, b: Path) -> bool:
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    status = renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE)
    return bool(status == 0)


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; NaN and infinities are refused with a ValueError."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
