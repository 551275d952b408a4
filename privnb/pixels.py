"""What may leave of a figure: its pixels, in a file that has no room for anything else.

Of the same pixels there is one such file, with one version of zlib: no choice is left in which
something could be hidden. What is hidden in the pixels themselves stays there, as it would in
numbers: nobody sees whether a colour is darker by one.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

from privnb.errors import BadMessage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["rewritten", "write_png"]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER = struct.Struct(">IIBBBBB")
_KIND = (8, 2, 0, 0, 0)
"""8 bits, RGB, and the usual methods; no transparency, below which there could be other pixels."""
_SIZE_AT, _PIXELS_AT, _AFTER_PIXELS = 16, 41, 16
_PORTION_BYTES = 1 << 16
_MOST_PIXELS = 25_000_000
_LEVEL = 9


def write_png(width: int, height: int, rgb: bytes) -> bytes:
    """Write pixels, three bytes each, row after row from the top.

    Raises `BadMessage` for more than 25 million pixels, or none.
    """
    _require_size(width, height)
    rows = (b"\0" + rgb[at : at + 3 * width] for at in range(0, len(rgb), 3 * width))
    packed = b"".join(rows)
    portions = (packed[at : at + _PORTION_BYTES] for at in range(0, len(packed), _PORTION_BYTES))
    return _framed(width, height, _packed(portions))


def rewritten(data: bytes) -> bytes:
    """Read a PNG of the form that `write_png` gives, and write it again, in bounded memory.

    Raises `BadMessage` for any other file. What comes back is the same unless its compression
    differs, as it may between two versions of zlib: where both are one machine's, what differs
    carries more than its pixels.
    """
    if not data.startswith(_SIGNATURE) or len(data) < _PIXELS_AT + _AFTER_PIXELS:
        raise BadMessage("The figure is not a PNG.")
    width, height = struct.unpack_from(">II", data, _SIZE_AT)
    _require_size(width, height)
    pixels = data[_PIXELS_AT:-_AFTER_PIXELS]
    if _framed(width, height, pixels) != data:
        raise BadMessage("The figure's PNG is of another form, or carries more than its pixels.")
    return _framed(width, height, _packed(_unpacked(pixels, width=width, height=height)))


def _require_size(width: int, height: int) -> None:
    if not 0 < width * height <= _MOST_PIXELS:
        raise BadMessage(f"The figure has no pixels, or more than {_MOST_PIXELS:,}.")


def _framed(width: int, height: int, pixels: bytes) -> bytes:
    parts = ((b"IHDR", _HEADER.pack(width, height, *_KIND)), (b"IDAT", pixels), (b"IEND", b""))
    return _SIGNATURE + b"".join(
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in parts
    )


def _packed(portions: Iterable[bytes]) -> bytes:
    packer = zlib.compressobj(_LEVEL)
    return b"".join([*map(packer.compress, portions), packer.flush()])


def _unpacked(pixels: bytes, *, width: int, height: int) -> Iterator[bytes]:
    """Unpack by portions, for what a small file unpacks to is never held as a whole."""
    row = 1 + 3 * width
    reader = zlib.decompressobj()
    size = 0
    try:
        while size <= height * row and (part := reader.decompress(pixels, _PORTION_BYTES)):
            if any(part[-size % row :: row]):
                raise BadMessage("The figure's PNG has rows of another form than its pixels.")
            size += len(part)
            pixels = reader.unconsumed_tail
            yield part
    except zlib.error:
        raise BadMessage("The figure's PNG is damaged.") from None
    if size != height * row or not reader.eof or reader.unused_data:
        raise BadMessage("The figure's PNG holds other data than its pixels.")
