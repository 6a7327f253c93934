"""Messages on a stream socket: a JSON header and byte strings.

Standard library only: spawner.py loads it by its path.
"""

from __future__ import annotations

import json
import socket
import struct

MAX_FRAME = 1 << 30


def send(to: socket.socket, header: dict, blobs: list[bytes] | tuple[()] = ()) -> None:
    text = json.dumps({**header, "blobs": [len(blob) for blob in blobs]}).encode()
    to.sendall(struct.pack("Q", len(text)) + text + b"".join(blobs))


def receive(source: socket.socket) -> tuple[dict, list[bytes]]:
    """EOFError when the other side is gone."""
    header = json.loads(_exactly(source, struct.unpack("Q", _exactly(source, 8))[0]))
    return header, [_exactly(source, size) for size in header["blobs"]]


def _exactly(source: socket.socket, size: int) -> bytes:
    if size > MAX_FRAME:
        raise EOFError(f"a frame of {size} bytes")
    data = bytearray()
    while len(data) < size:
        piece = source.recv(min(size - len(data), 1 << 20))
        if not piece:
            raise EOFError
        data += piece
    return bytes(data)
