"""Output of a command in a container, as the Engine API sends it without a terminal.

Frames of eight bytes, [stream, 0, 0, 0, length as big-endian uint32], each followed by its payload
(Docker Engine API 1.41, "Attach to a container", Stream format).
"""

import struct
from collections.abc import Iterable

_HEADER = struct.Struct(">BxxxL")
_STDERR = 2


def split(pieces: Iterable[bytes]) -> tuple[bytes, bytes]:
    """(stdout, stderr) of the whole answer; raises EOFError when it ends inside of a frame."""
    data = b"".join(pieces)
    outputs: tuple[list[bytes], list[bytes]] = ([], [])
    position = 0
    while position < len(data):
        if position + _HEADER.size > len(data):
            raise EOFError("the answer ended inside of a frame")
        stream, length = _HEADER.unpack_from(data, position)
        position += _HEADER.size
        payload = data[position : position + length]
        if len(payload) < length:
            raise EOFError("the answer ended inside of a frame")
        outputs[stream == _STDERR].append(payload)
        position += length
    return b"".join(outputs[0]), b"".join(outputs[1])
