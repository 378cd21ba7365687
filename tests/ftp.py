"""An FTP server over a folder, which remembers what it was asked to put where."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Ftp:
    """A running server: its URL, its folder, and the names that files were moved to, in order."""

    url: str
    folder: Path
    moves: list[str] = field(default_factory=list)


@contextmanager
def serve(folder: Path) -> Iterator[Ftp]:
    """A server in threads of this process."""
    from pyftpdlib.authorizers import DummyAuthorizer
    from pyftpdlib.handlers import FTPHandler
    from pyftpdlib.log import config_logging
    from pyftpdlib.servers import ThreadedFTPServer

    class Handler(FTPHandler):  # type: ignore[misc]
        def ftp_RNTO(self, path: str) -> Any:
            done = super().ftp_RNTO(path)
            if done is not None:
                ftp.moves.append(os.path.relpath(path, os.path.realpath(folder)))
            return done

    config_logging(level="ERROR")
    accounts = DummyAuthorizer()
    accounts.add_user("me", "word", str(folder), perm="elradfmwMT")
    Handler.authorizer = accounts
    ThreadedFTPServer.poll_timeout = 0.1  # seconds; how soon its threads see that it ends
    server = ThreadedFTPServer(("127.0.0.1", 0), Handler)
    ftp = Ftp(f"ftp://me:word@127.0.0.1:{server.address[1]}", folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"timeout": 0.2}, daemon=True)
    thread.start()
    try:
        yield ftp
    finally:
        server.close_all()
        thread.join(5)
