"""What may leave of a figure: its pixels, in a PNG that carries nothing else."""

from __future__ import annotations

import struct
import zlib

from privnb.errors import BadMessage

__all__ = ["plain_png"]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_BYTES_PER_PIXEL = {2: 3, 6: 4}  # by colour type: RGB, RGBA
_BITS = 8
_PORTION_BYTES = 1 << 16
_MOST_PIXELS = 25_000_000


def plain_png(data: bytes) -> bytes:
    """Reduce a PNG to its pixels: header, image data, end; no text, no EXIF, nothing behind it.

    Only what matplotlib writes is accepted: 8 bits, RGB or RGBA, not interlaced, at most 25 million
    pixels. Raises `BadMessage` for anything else, also when the image data has a byte too many.
    """
    if not data.startswith(_SIGNATURE):
        raise BadMessage("The figure is not a PNG.")
    header, pixels = b"", b""
    position = len(_SIGNATURE)
    while True:
        if position + 12 > len(data):
            raise BadMessage("The figure's PNG ends too early.")
        length, kind = struct.unpack_from(">I4s", data, position)
        content = data[position + 8 : position + 8 + length]
        if len(content) != length or bool(header) == (kind == b"IHDR"):
            raise BadMessage("The figure's PNG is damaged.")
        position += 12 + length
        if kind == b"IHDR":
            header = content
        elif kind == b"IDAT":
            pixels += content
        elif kind == b"IEND":
            break
    _require_pixels(header, pixels)
    parts = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    return _SIGNATURE + b"".join(
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in parts
    )


def _require_pixels(header: bytes, pixels: bytes) -> None:
    try:
        width, height, depth, colour, *rest = struct.unpack(">IIBBBBB", header)
    except struct.error:
        raise BadMessage("The figure's PNG is damaged.") from None
    per_pixel = _BYTES_PER_PIXEL.get(colour)
    if depth != _BITS or per_pixel is None or any(rest) or not 0 < width * height <= _MOST_PIXELS:
        raise BadMessage("The figure's PNG is of a form that is not accepted.")
    expected = height * (1 + width * per_pixel)
    reader = zlib.decompressobj()
    size = 0
    try:
        while size <= expected and (part := reader.decompress(pixels, _PORTION_BYTES)):
            size += len(part)  # what a small file unpacks to is never held as a whole
            pixels = reader.unconsumed_tail
    except zlib.error:
        raise BadMessage("The figure's PNG is damaged.") from None
    if size != expected or not reader.eof or reader.unused_data:
        raise BadMessage("The figure's PNG holds other data than its pixels.")
