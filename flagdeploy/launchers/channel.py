"""SSH channels that HTTP libraries can use as sockets, and tunnels to a host's unix sockets."""

import io
import threading
from typing import Any, BinaryIO, cast

from paramiko import Channel, Message, SSHException, Transport
from paramiko.common import cMSG_CHANNEL_OPEN


class ChannelStream:
    """A socket as far as `http.client`, urllib3 and the Docker SDK look at it."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._readers = 0
        self._given_up = False

    def sendall(self, data: bytes) -> None:
        self._channel.sendall(data)

    def makefile(self, mode: str, buffering: int = -1) -> BinaryIO:
        self._readers += 1
        return io.BufferedReader(_Reader(self))

    def recv_into(self, buffer: memoryview) -> int:
        data = self._channel.recv(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def settimeout(self, value: float | None) -> None:
        self._channel.settimeout(value)

    def gettimeout(self) -> float | None:
        return self._channel.gettimeout()

    def shutdown(self, how: int) -> None:
        self._channel.close()

    def close(self) -> None:
        """As a socket does: what `makefile` gave can be read to its end first."""
        self._given_up = True
        if self._readers == 0:
            self._channel.close()

    def reader_closed(self) -> None:
        self._readers -= 1
        if self._given_up:
            self.close()

    @property
    def closed(self) -> bool:
        return self._channel.closed or bool(self._channel.eof_received)


class _Reader(io.RawIOBase):
    """The raw file of a stream; closing it leaves the stream open, as with sockets.

    The Docker SDK looks for `sock`, `settimeout` and `gettimeout` here.
    """

    def __init__(self, sock: ChannelStream) -> None:
        self.sock = sock

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        if not self.closed:
            super().close()
            self.sock.reader_closed()

    def readinto(self, buffer: Any) -> int:
        return self.sock.recv_into(memoryview(buffer))

    def settimeout(self, value: float | None) -> None:
        self.sock.settimeout(value)

    def gettimeout(self) -> float | None:
        return self.sock.gettimeout()


def open_unix(transport: Transport, path: str, timeout: float) -> Channel:
    """Tunnel to a unix socket of the host: ``direct-streamlocal@openssh.com``.

    OpenSSH's PROTOCOL file, section 2.4.
    paramiko knows no such channel, so this does what its `Transport.open_channel` does, with the
    three fields of this type: string path, string reserved, uint32 reserved.
    Raises SSHException when the host refuses.
    """
    inner = cast(Any, transport)
    message = Message()
    with inner.lock:
        number = inner._next_channel()
        window = inner._sanitize_window_size(None)
        packet = inner._sanitize_packet_size(None)
        message.add_byte(cMSG_CHANNEL_OPEN)
        message.add_string("direct-streamlocal@openssh.com")
        for size in (number, window, packet):
            message.add_int(size)
        message.add_string(path)
        message.add_string("")
        message.add_int(0)
        channel = Channel(number)
        inner._channels.put(number, channel)
        inner.channel_events[number] = answered = threading.Event()
        inner.channels_seen[number] = True
        cast(Any, channel)._set_transport(transport)
        cast(Any, channel)._set_window(window, packet)
    inner._send_user_message(message)
    if not answered.wait(timeout):
        channel.close()
        raise SSHException(f"no answer to a tunnel to {path}")
    if not transport.is_active() or inner._channels.get(number) is None:
        raise transport.get_exception() or SSHException(f"no tunnel to {path}")
    return channel
