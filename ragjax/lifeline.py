"""Connections by which each host of a run notices at once that another has ended.

JAX itself notices it by an exchange that fails, or after a minute without a sign of life, and then ends
the process with messages of its own.
"""

import contextlib
import selectors
import socket
import threading
from collections.abc import Callable, Mapping

DONE = b"."  # what a host says once the others need it no more
SILENT, ASK_EVERY, ASKED = 15, 10, 3  # seconds, seconds, times: 45 s after power or net are gone


class Lifeline:
    """Watches the connections to other hosts, in a thread of its own.

    Host 0 has one to every other host, and each of these one to host 0, which hands on who was lost.
    """

    def __init__(self, others: Mapping[int, socket.socket], lost: Callable[[int], None]):
        """Begins to watch.

        Args:
          others: number of each other host -> the connection to it.
          lost: called in the thread, once, with the number of a host that ended without `done`.
        """
        self._others, self._lost, self._closed = dict(others), lost, False
        for connection in self._others.values():
            connection.settimeout(None)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if hasattr(socket, "TCP_KEEPIDLE"):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, SILENT)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, ASK_EVERY)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, ASKED)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        with selectors.DefaultSelector() as selector:
            for host, connection in self._others.items():
                selector.register(connection, selectors.EVENT_READ, host)
            while selector.get_map():
                for key, _ in selector.select():
                    said = _heard(self._others[key.data])
                    if said == DONE:
                        selector.unregister(key.fileobj)
                        continue
                    if not self._closed:
                        gone = int(said) if said.isdigit() else key.data
                        self._say(str(gone).encode())
                        self._lost(gone)
                    return

    def _say(self, words: bytes) -> None:
        for connection in self._others.values():
            with contextlib.suppress(OSError):
                connection.sendall(words)

    def wait(self, seconds: float) -> None:
        """Gives the thread time to hear of a host that was lost."""
        self._thread.join(seconds)

    def done(self) -> None:
        """Tells the others that this host may end; whether they do is still watched."""
        self._say(DONE)

    def close(self) -> None:
        """Watches no more: this host is ending."""
        self._closed = True


def _heard(connection: socket.socket) -> bytes:
    """What the other side says; nothing where it has ended."""
    try:
        return connection.recv(16)
    except OSError:
        return b""
