"""A TCP proxy that can be made to refuse, reset, hang up or stall, and to recover: the faults of a network, for real."""

import selectors
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Literal

HOST = "127.0.0.1"
_CHUNK_BYTES = 16 * 1024
_PATIENCE_SECONDS = 10.0
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, for no time

Side = Literal["request", "reply"]
End = Literal["reset", "hang_up"]


class _Pipe:
    """One direction of a connection: what was read from `source` and not yet written to `sink`."""

    def __init__(self, source: socket.socket, sink: socket.socket, side: Side) -> None:
        self.source = source
        self.sink = sink
        self.side = side
        self.waiting = b""


class _Pair:
    """A client's connection and the one made for it to the target."""

    def __init__(self, client: socket.socket, target: socket.socket) -> None:
        self.sockets = (client, target)
        self.pipes = (_Pipe(client, target, "request"), _Pipe(target, client, "reply"))
        self.replied_bytes = 0

    def close(self, how: End) -> None:
        for end in self.sockets:
            if how == "reset":
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            end.close()


class TcpProxy:
    """Forwards connections from 127.0.0.1:`port` to a target. Faults apply at once and last until `forward`.

    All sockets belong to one thread; the methods hand it their work and wait until that is done.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._selector = selectors.DefaultSelector()
        self._work: deque[tuple[Callable[[], None], Future[None]]] = deque()
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._listener = self._bind(0)
        self.port: int = self._listener.getsockname()[1]
        self._pairs: list[_Pair] = []
        self._abandoned: list[_Pair] = []
        self._stalled = False
        self._ending = False
        self._break_at: tuple[Side, End, int] | None = None
        self._listen()
        self._thread = threading.Thread(target=self._run, name="tcp-proxy")
        self._thread.start()

    def __enter__(self) -> "TcpProxy":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._do(self._close)
        self._thread.join(_PATIENCE_SECONDS)

    def forward(self) -> None:
        """Ends every fault: what stalled moves on, and new connections are forwarded."""
        self._do(self._forward)

    def refuse(self) -> None:
        """Resets what there is and refuses what comes."""
        self._do(self._refuse)

    def reset(self) -> None:
        """Resets the connections that there are; new ones are forwarded."""
        self._do(lambda: self._break_all("reset"))

    def stall(self) -> None:
        """Moves no byte any more, in no direction; connections stay open, and new ones are accepted and not served."""
        self._do(self._stall)

    def abandon(self) -> None:
        """The connections that there are never move again and never close, on either side; new ones are forwarded."""
        self._do(self._abandon)

    def break_at(self, side: Side, how: End = "reset", *, after_reply_bytes: int = 0) -> None:
        """Breaks a connection in place of forwarding its next request, or its next reply once so much was replied."""
        self._do(lambda: setattr(self, "_break_at", (side, how, after_reply_bytes)))

    def _do(self, work: Callable[[], None]) -> None:
        done: Future[None] = Future()
        self._work.append((work, done))
        self._wake.send(b"\0")
        done.result(_PATIENCE_SECONDS)

    def _run(self) -> None:
        while not self._ending:
            for key, events in self._selector.select():
                if key.fileobj is self._woken:
                    self._woken.recv(1)
                    self._run_one()
                    break  # what else was ready may be closed by now
                if key.fileobj is self._listener:
                    self._accept()
                elif key.data not in self._pairs:
                    continue  # closed a moment ago
                else:
                    self._move(key.data, key.fileobj, events)

    def _run_one(self) -> None:
        work, done = self._work.popleft()
        try:
            work()
            done.set_result(None)
        except BaseException as error:  # it is raised where it was asked for
            done.set_exception(error)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        try:
            target = socket.create_connection(self._target, timeout=_PATIENCE_SECONDS)
        except OSError:  # as the target would have it
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            client.close()
            return
        pair = _Pair(client, target)
        for end in pair.sockets:
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._pairs.append(pair)
        self._watch(pair)

    def _watch(self, pair: _Pair) -> None:
        """Reads where nothing waits to be written, so that a slow reader slows its writer down."""
        upstream, downstream = pair.pipes
        for end, reads, writes in ((upstream.source, upstream, downstream), (downstream.source, downstream, upstream)):
            wanted = (0 if reads.waiting else selectors.EVENT_READ) | (selectors.EVENT_WRITE if writes.waiting else 0)
            known = end.fileno() in self._selector.get_map()
            if wanted and not self._stalled:
                (self._selector.modify if known else self._selector.register)(end, wanted, pair)
            elif known:
                self._selector.unregister(end)

    def _move(self, pair: _Pair, ready: object, events: int) -> None:
        try:
            for pipe in pair.pipes:
                if pipe.source is ready and events & selectors.EVENT_READ and not pipe.waiting:
                    data = pipe.source.recv(_CHUNK_BYTES)
                    if not data or self._breaks(pair, pipe):
                        self._break(pair, self._break_at[1] if data and self._break_at else "hang_up")
                        return
                    pipe.waiting = data
                    pair.replied_bytes += len(data) if pipe.side == "reply" else 0
                if pipe.waiting:
                    pipe.waiting = pipe.waiting[self._send(pipe) :]
        except OSError:
            self._break(pair, "reset")
            return
        self._watch(pair)

    @staticmethod
    def _send(pipe: _Pipe) -> int:
        try:
            return pipe.sink.send(pipe.waiting)
        except BlockingIOError:
            return 0

    def _breaks(self, pair: _Pair, pipe: _Pipe) -> bool:
        if self._break_at is None:
            return False
        side, _, after_bytes = self._break_at
        return pipe.side == side and pair.replied_bytes >= after_bytes

    def _break(self, pair: _Pair, how: End) -> None:
        for end in pair.sockets:
            if end.fileno() in self._selector.get_map():
                self._selector.unregister(end)
        pair.close(how)
        self._pairs.remove(pair)

    def _break_all(self, how: End) -> None:
        for pair in list(self._pairs):
            self._break(pair, how)

    def _forward(self) -> None:
        self._stalled = False
        self._break_at = None
        self._listen()
        for pair in self._pairs:
            self._watch(pair)

    def _refuse(self) -> None:
        # Bound and not listening is what refuses, and keeps the port ours. Bound before the other is closed.
        successor = self._bind(self.port)
        self._ignore_listener()
        self._listener.close()
        self._listener = successor
        self._break_all("reset")

    def _stall(self) -> None:
        self._stalled = True
        self._ignore_listener()
        for pair in self._pairs:
            self._watch(pair)

    def _abandon(self) -> None:
        for pair in self._pairs:
            for end in pair.sockets:
                if end.fileno() in self._selector.get_map():
                    self._selector.unregister(end)
        self._abandoned += self._pairs
        self._pairs = []

    def _listen(self) -> None:
        self._listener.listen()
        if self._listener.fileno() not in self._selector.get_map():
            self._selector.register(self._listener, selectors.EVENT_READ)

    def _ignore_listener(self) -> None:
        if self._listener.fileno() in self._selector.get_map():
            self._selector.unregister(self._listener)

    @staticmethod
    def _bind(port: int) -> socket.socket:
        bound = socket.socket()
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((HOST, port))
        return bound

    def _close(self) -> None:
        self._break_all("reset")
        for pair in self._abandoned:
            pair.close("reset")
        for end in (self._listener, self._wake, self._woken):
            end.close()
        self._selector.close()
        self._ending = True
