"""Image files that tests share."""

from __future__ import annotations

import struct
import zlib


def png_header(width: int, height: int) -> bytes:
    """Return a small PNG that claims a size and holds hardly a pixel of it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
        )

    size = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b'\x89PNG\r\n\x1a\n' + b''.join(
        chunk(kind, data) for kind, data in ((b'IHDR', size), (b'IDAT', pixels), (b'IEND', b''))
    )
