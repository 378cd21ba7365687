"""Whole files in and out: reads with a limit, writes that happen completely or not at all.

`-` is standard input or output. An OSError that leaves this module carries in `filename` the name that the user gave.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from dlfc.errors import LimitError

STANDARD_STREAM = "-"
STANDARD_INPUT = "standard input"
STANDARD_OUTPUT = "standard output"

_CHUNK_BYTES = 2**20  # read in pieces, so that an endless input stops at the limit
_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}  # FAT and some FUSE systems


def display_name(name: str) -> str:
    """Return the name of an input or output as messages show it: one line, nothing a terminal would act on."""
    return "".join(char if char.isprintable() else _escaped(char) for char in name)


def _escaped(char: str) -> str:
    if "\udc80" <= char <= "\udcff":  # a byte of a name that is not UTF-8
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()


def load(name: str, *, max_bytes: int) -> bytes:
    """Return all bytes of a file or of standard input. Raises OSError, or LimitError above `max_bytes`."""
    chunks: list[bytes] = []
    size_bytes = 0
    with _named(STANDARD_INPUT if name == STANDARD_STREAM else name):
        for chunk in _read_chunks(name):
            chunks.append(chunk)
            size_bytes += len(chunk)
            if size_bytes > max_bytes:
                raise LimitError(f"more than {max_bytes} bytes, which is the limit for an input")
    return b"".join(chunks)


def check_source(name: str) -> None:
    """Raise the OSError that `load` would raise, as far as it can be known without reading."""
    if name == STANDARD_STREAM:
        return
    with _named(name):
        if stat.S_ISDIR(os.stat(name).st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not os.access(name, os.R_OK):
            raise PermissionError(errno.EACCES, "no permission to read it")


def check_target(name: str, *, overwrite: bool) -> None:
    """Raise the OSError that `save` would raise, as far as it can be known before the work is done."""
    with _named(name):
        parent = os.path.dirname(name) or "."
        if not os.path.exists(parent):
            raise FileNotFoundError(errno.ENOENT, f"the directory {display_name(parent)} does not exist")
        if not os.path.isdir(parent):
            raise NotADirectoryError(errno.ENOTDIR, f"{display_name(parent)} is not a directory")
        mode = _mode(name)
        if mode is not None:
            if stat.S_ISDIR(mode):
                raise IsADirectoryError(errno.EISDIR, "is a directory; name a file, or use --output-dir")
            if not (stat.S_ISREG(mode) or _is_stream(mode)):
                raise OSError(errno.EINVAL, "is neither a file nor a stream")
            if stat.S_ISREG(mode) and not overwrite:
                raise _already_exists()
        if (mode is None or stat.S_ISREG(mode)) and not os.access(os.path.dirname(os.path.realpath(name)), os.W_OK):
            raise PermissionError(errno.EACCES, "no permission to write into its directory")


def is_stream(name: str) -> bool:
    """Whether the name is an existing device or pipe, which is written to and never replaced."""
    mode = _mode(name)
    return mode is not None and _is_stream(mode)


def save(name: str, data: bytes | Iterable[bytes], *, overwrite: bool) -> int:
    """Write a file, whole or in pieces, so that it is there completely or not at all; return its size.

    An existing file is replaced only with `overwrite`; a symbolic link stays and the file it names is replaced.
    Raises OSError, or whatever the pieces raise; then nothing has changed, but a stream may have a part.
    """
    with _named(name):
        if is_stream(name):
            with open(name, "wb") as stream:
                return _write_pieces(stream, data)
        return _save_whole(os.path.realpath(name), data, overwrite=overwrite)


def make_directory(name: str) -> None:
    """Make a directory with its parents unless it is there. Raises OSError."""
    with _named(name):
        try:
            os.makedirs(name, exist_ok=True)
        except FileExistsError as error:
            raise NotADirectoryError(errno.ENOTDIR, "is not a directory") from error


def save_to_stdout(data: bytes | Iterable[bytes]) -> int:
    """Write bytes, whole or in pieces, to standard output now; return how many.

    Raises OSError, after which standard output leads nowhere.
    """
    with _named(STANDARD_OUTPUT):
        if sys.stdout is None:
            if not data:
                return 0
            raise OSError(errno.EBADF, "is closed")
        try:
            sys.stdout.flush()
            size_bytes = _write_pieces(sys.stdout.buffer, data)
            sys.stdout.buffer.flush()
        except OSError:
            _discard_stdout()
            raise
    return size_bytes


def print_to_stdout(text: str) -> None:
    """Write text to standard output now, in its encoding. Raises OSError."""
    encoding = sys.stdout.encoding if sys.stdout is not None else "utf-8"
    save_to_stdout(text.encode(encoding, "backslashreplace"))


def _read_chunks(name: str) -> Iterator[bytes]:
    if name == STANDARD_STREAM:
        if sys.stdin is None:
            raise OSError(errno.EBADF, "is closed")
        yield from iter(lambda: sys.stdin.buffer.read(_CHUNK_BYTES), b"")
        return
    with open(name, "rb") as stream:
        yield from iter(lambda: stream.read(_CHUNK_BYTES), b"")


def _save_whole(path: str, data: bytes | Iterable[bytes], *, overwrite: bool) -> int:
    # The name does not grow with that of the target, which may already have the longest that the system allows.
    temporary = os.path.join(os.path.dirname(path), f".dlfc-{os.urandom(8).hex()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with open(descriptor, "wb") as stream:
            size_bytes = _write_pieces(stream, data)
            stream.flush()
            os.fsync(stream.fileno())
        if overwrite:
            with suppress(FileNotFoundError):
                os.chmod(temporary, stat.S_IMODE(os.stat(path).st_mode))
            os.replace(temporary, path)
        else:
            _move_to_free_name(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
    return size_bytes


def _move_to_free_name(temporary: str, path: str) -> None:
    """Give a file its name unless that name is taken, also by someone who was faster by a moment."""
    try:
        os.link(temporary, path)
    except FileExistsError as error:
        raise _already_exists() from error
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        _move_without_links(temporary, path)


def _move_without_links(temporary: str, path: str) -> None:
    """Reserve the name with an empty file, then replace that."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    except FileExistsError as error:
        raise _already_exists() from error
    try:
        os.replace(temporary, path)
    except BaseException:
        os.unlink(path)
        raise


def _write_pieces(stream: BinaryIO, data: bytes | Iterable[bytes]) -> int:
    size_bytes = 0
    for piece in (data,) if isinstance(data, bytes) else data:
        _write_all(stream, piece)
        size_bytes += len(piece)
    return size_bytes


def _write_all(stream: BinaryIO, data: bytes) -> None:
    """Write until nothing is left: with PYTHONUNBUFFERED, a write to a full disk or a closing pipe may take a part."""
    left = memoryview(data)
    while left:
        taken = stream.write(left)
        if taken is None:
            raise BlockingIOError(errno.EAGAIN, "takes nothing at the moment")
        left = left[taken:]


def _discard_stdout() -> None:
    """Lead standard output nowhere, or what could not be written would be tried again when the program ends."""
    with suppress(OSError), open(os.devnull, "wb") as nowhere:  # a stand-in for standard output has no number
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _already_exists() -> FileExistsError:
    return FileExistsError(errno.EEXIST, "already exists; use -f to overwrite it")


def _mode(name: str) -> int | None:
    try:
        return os.stat(name).st_mode
    except FileNotFoundError:
        return None


def _is_stream(mode: int) -> bool:
    return stat.S_ISCHR(mode) or stat.S_ISFIFO(mode)


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Let an OSError carry the name that the user gave instead of that of a temporary file, or none."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = name, None
        raise


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name in a tree is left out, as other tools do; some systems add such files."""
    return name.startswith(".")
