"""Files and folders by name or by URL, through fsspec: `photo.png`, `s3://bucket/photo.png`, `ftp://host/photo.png`.

A file is written completely or not at all. Stores of objects do that by themselves; elsewhere a temporary file in the
same folder gets its name when it is whole. Every error is an OSError with the name in `filename`, or a DlfcError.
"""

from __future__ import annotations

import errno
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from dlfc import files
from dlfc.errors import DlfcError, LimitError

if TYPE_CHECKING:
    from fsspec.spec import AbstractFileSystem

# Where writing an object is one step and renaming is not.
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "tos", "memory"}
_PAUSES_S = (0.5, 2.0)  # before an operation that failed is tried again
_DEFINITE = {  # errors that trying again does not mend
    FileNotFoundError: errno.ENOENT,
    FileExistsError: errno.EEXIST,
    IsADirectoryError: errno.EISDIR,
    NotADirectoryError: errno.ENOTDIR,
    PermissionError: errno.EACCES,
}

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.:-]*://")  # also s3://, and simplecache::s3://

T = TypeVar("T")

_shared: dict[str, Any] = {}  # file systems that threads can share
_own = threading.local()  # those of this thread: connections that take one command at a time


def is_url(name: str) -> bool:
    """Whether fsspec takes care of it."""
    return _URL.match(name) is not None


def absolute(name: str) -> str:
    """The name that is the same wherever one stands."""
    return name if is_url(name) else os.path.abspath(name)


def join(folder: str, *parts: str) -> str:
    """The name of what lies below `folder`."""
    if not is_url(folder):
        return os.path.normpath(os.path.join(folder, *parts))
    below = [part for part in parts if part not in ("", ".")]
    return "/".join([folder.rstrip("/"), *below])


def parent(name: str) -> str:
    """The folder that a file lies in; empty for a file in the current one."""
    return name.rpartition("/")[0] if is_url(name) else os.path.dirname(name)


def check(name: str) -> None:
    """Raise DlfcError or OSError if the file system of a URL cannot be reached."""
    if is_url(name):
        _persistently(name, lambda system, path: None)


def load(name: str, *, max_bytes: int) -> bytes:
    """All bytes of a file. Raises LimitError above `max_bytes`."""
    if not is_url(name):
        return files.load(name, max_bytes=max_bytes)

    def read(system: AbstractFileSystem, path: str) -> bytes:
        info = system.info(path)
        if info["type"] == "directory":
            raise IsADirectoryError
        if (info.get("size") or 0) > max_bytes:
            raise LimitError(f"more than {max_bytes} bytes, which is the limit for an input")
        return bytes(system.cat_file(path))

    return _persistently(name, read)


def save(name: str, data: bytes, *, overwrite: bool) -> None:
    """Write a file, and the folder that it lies in, so that it is there completely or not at all."""
    if is_url(name):
        _persistently(name, lambda system, path: _write(system, path, data, overwrite))
        return
    if parent(name):
        files.make_directory(parent(name))
    files.save(name, data, overwrite=overwrite)


def remove(name: str) -> None:
    """Remove a file. Raises OSError, FileNotFoundError if it is not there."""
    if is_url(name):
        _persistently(name, lambda system, path: system.rm_file(path))
    else:
        os.remove(name)


def exists(name: str) -> bool:
    """Whether there is something of that name."""
    if not is_url(name):
        return os.path.lexists(name)
    return _persistently(name, _is_there)


def is_folder(name: str) -> bool:
    """Whether there is a folder of that name."""
    if not is_url(name):
        return os.path.isdir(name)

    def ask(system: AbstractFileSystem, path: str) -> bool:
        with suppress(FileNotFoundError):
            return bool(system.info(path)["type"] == "directory")
        return False

    return _persistently(name, ask)


def walk(folder: str, failed: Callable[[OSError], None]) -> Iterator[tuple[str, list[str]]]:
    """The folders at and below `folder`, by their path from there, with the names of the files in them, sorted.

    Holds the names of one folder at a time. Hidden folders are left out; those that cannot be read are told to
    `failed`.
    """
    if is_url(folder):
        yield from _walk_url(folder, failed)
        return
    for place, folders, names in os.walk(folder, onerror=failed):
        folders[:] = sorted(name for name in folders if not files.is_hidden(name))
        yield os.path.relpath(place, folder), sorted(names)


def _walk_url(folder: str, failed: Callable[[OSError], None]) -> Iterator[tuple[str, list[str]]]:
    left = [""]
    while left:
        below = left.pop()
        try:
            found = _persistently(join(folder, below), _entries)
        except OSError as error:
            failed(error)
            continue
        yield below, sorted(name for name, is_dir in found if not is_dir)
        folders = sorted((name for name, is_dir in found if is_dir and not files.is_hidden(name)), reverse=True)
        left += [f"{below}/{name}".lstrip("/") for name in folders]


def _entries(system: AbstractFileSystem, path: str) -> list[tuple[str, bool]]:
    """What lies in a folder: names, and whether each is a folder. Some stores list the folder itself too."""
    found = [(str(entry["name"]).rstrip("/"), entry["type"] == "directory") for entry in system.ls(path, detail=True)]
    here = path.strip("/")
    return [(name.rpartition("/")[2], is_dir) for name, is_dir in found if name.strip("/") != here]


def _write(system: AbstractFileSystem, path: str, data: bytes, overwrite: bool) -> None:
    if not overwrite and _is_there(system, path):
        raise FileExistsError(errno.EEXIST, "already exists; use -f to overwrite it")
    if _writes_whole(system):
        system.pipe_file(path, data)
        return
    folder = path.rpartition("/")[0]
    _make_folder(system, folder)
    temporary = f"{folder}/.dlfc-{os.urandom(8).hex()}.tmp"
    try:
        system.pipe_file(temporary, data)
        _move(system, temporary, path)
    except BaseException:
        with suppress(Exception):
            system.rm_file(temporary)
        raise


def _writes_whole(system: AbstractFileSystem) -> bool:
    """Whether a file appears when it is complete, or there is no move that would do better than a copy."""
    from fsspec.spec import AbstractFileSystem

    protocols = {system.protocol} if isinstance(system.protocol, str) else set(system.protocol)
    return bool(protocols & _OBJECT_STORES) or type(system).mv is AbstractFileSystem.mv


def _make_folder(system: AbstractFileSystem, folder: str) -> None:
    try:
        system.makedirs(folder, exist_ok=True)
    except Exception:  # another worker may have been faster by a moment
        if not system.isdir(folder):
            raise


def _move(system: AbstractFileSystem, temporary: str, path: str) -> None:
    try:
        system.mv(temporary, path)
    except Exception:  # some systems do not move onto a file that exists
        if not _is_there(system, path):
            raise
        system.rm_file(path)
        system.mv(temporary, path)


def _is_there(system: AbstractFileSystem, path: str) -> bool:
    """As `exists` of fsspec, which takes any error for a no."""
    try:
        system.info(path)
    except FileNotFoundError:
        return False
    return True


def _persistently(name: str, operation: Callable[[AbstractFileSystem, str], T]) -> T:
    """Do something with a file of a URL; where the network or the other side fails, a few times."""
    for pause_s in (*_PAUSES_S, None):
        try:
            return operation(*_find(name))
        except (DlfcError, MemoryError):
            raise
        except Exception as error:  # file systems raise whatever their libraries do
            _forget(name)
            if pause_s is None or isinstance(error, tuple(_DEFINITE)):
                raise _as_os_error(error, name) from error
        time.sleep(pause_s)
    raise AssertionError("unreachable")


def _find(name: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a URL and the path in it. Raises DlfcError if there is none for it."""
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise DlfcError("URLs need fsspec; install it with: pip install 'dlfc[ray]'") from error
    known = _known(name)
    root = _root(name)
    if root in known:
        return known[root], known[root]._strip_protocol(name)
    try:
        system, path = url_to_fs(name, use_listings_cache=False)  # others write too; and listings can be long
    except (ImportError, ValueError) as error:
        raise DlfcError(f"{name}: {' '.join(str(error).split())}") from error
    if "::" not in name:
        (_shared if system.async_impl else known)[root] = system
    return system, path


def _known(name: str) -> dict[str, Any]:
    if _root(name) in _shared:
        return _shared
    if not hasattr(_own, "systems"):
        _own.systems = {}
    systems: dict[str, Any] = _own.systems
    return systems


def _forget(name: str) -> None:
    """Connect anew the next time."""
    _known(name).pop(_root(name), None)


def _root(name: str) -> str:
    """The part of a URL that says which file system, such as ftp://host:21."""
    scheme, _, rest = name.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}"


def _as_os_error(error: Exception, name: str) -> OSError:
    """The same as an error of the system, with a reason in words and the name that the user gave."""
    if not isinstance(error, OSError) or error.errno is None or not error.strerror:
        number = next((number for kind, number in _DEFINITE.items() if isinstance(error, kind)), None)
        reason = " ".join(str(error).split()) or type(error).__name__
        error = OSError(errno.EIO, reason) if number is None else OSError(number, os.strerror(number))
    error.filename, error.filename2 = name, None
    return error
