"""Frames over a socket: four bytes of length, then so many bytes. The pool's side never blocks, a worker's side always does."""

import socket
import struct

_LENGTH = struct.Struct(">I")
_CHUNK = 1 << 18
"""Bytes read at once."""
_TURN = 1 << 22
"""Bytes read in one go at most, so that one worker that sends without end holds up no other."""


class Wire:
    """The pool's end of a socket to one process: what is half sent, and what has half come.

    max_frame: bytes of the longest frame that is taken; a longer one breaks the wire
    """

    def __init__(self, sock: socket.socket, max_frame: int) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.ended = False
        """The other side has closed, or died."""
        self.broken = False
        """A frame was longer than `max_frame`."""
        self._max_frame = max_frame
        self._incoming = bytearray()
        self._outgoing: list[memoryview] = []

    def fileno(self) -> int:
        return self.sock.fileno()

    @property
    def backlog(self) -> bool:
        """Whether there is something left to send."""
        return bool(self._outgoing)

    def send(self, payload: bytes) -> None:
        """Send as much as goes now; `flush` sends the rest."""
        self._outgoing += [memoryview(_LENGTH.pack(len(payload))), memoryview(payload)]
        self.flush()

    def flush(self) -> None:
        while self._outgoing:
            try:
                sent = self.sock.send(self._outgoing[0])
            except BlockingIOError:
                return
            except OSError:  # it is dead, which `receive` will tell
                self._outgoing.clear()
                return
            if sent == len(self._outgoing[0]):
                del self._outgoing[0]
            else:
                self._outgoing[0] = self._outgoing[0][sent:]

    def receive(self) -> list[bytes]:
        """The frames that have come whole. Sets `ended` and `broken`."""
        read = 0
        while read < _TURN:
            try:
                chunk = self.sock.recv(_CHUNK)
            except BlockingIOError:
                break
            except OSError:
                chunk = b""
            if not chunk:
                self.ended = True
                break
            read += len(chunk)
            self._incoming += chunk
        return self._whole_frames()

    def close(self) -> None:
        """End the connection, whoever else holds a copy of the socket."""
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the other side was first
        self.sock.close()

    def _whole_frames(self) -> list[bytes]:
        frames, start = [], 0
        while not self.broken and len(self._incoming) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._incoming, start)
            end = start + _LENGTH.size + length
            if length > self._max_frame:
                self.broken = True
            elif end > len(self._incoming):
                break
            else:
                frames.append(bytes(self._incoming[start + _LENGTH.size : end]))
                start = end
        del self._incoming[:start]
        return frames


def read_frame(sock: socket.socket) -> bytes:
    """The next frame of a blocking socket. Raises EOFError when there is none."""
    (length,) = _LENGTH.unpack(_read(sock, _LENGTH.size))
    return _read(sock, length)


def write_frame(sock: socket.socket, payload: bytes) -> None:
    sock.sendall(frame(payload))


def frame(payload: bytes) -> bytes:
    return _LENGTH.pack(len(payload)) + payload


def frame_length(header: bytes) -> int:
    length: int = _LENGTH.unpack(header)[0]
    return length


HEADER_BYTES = _LENGTH.size


def _read(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        chunk = sock.recv(min(size - len(data), _CHUNK))
        if not chunk:
            raise EOFError
        data += chunk
    return bytes(data)
