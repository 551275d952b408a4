"""The script and the style sheet of a widget, each with what all of our widgets share before it.

A front end loads one module per widget and resolves no imports between files of ours, so the
shared part is put in front as text.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["script", "style"]

_STATIC = Path(__file__).parent / "static"


def script(name: str) -> str:
    """Return the ECMAScript module of the widget of that name."""
    return _joined("js", name)


def style(name: str) -> str:
    """Return the style sheet of the widget of that name."""
    return _joined("css", name)


def _joined(ending: str, name: str) -> str:
    files = (_STATIC / f"{part}.{ending}" for part in ("shared", name))
    return "\n".join(file.read_text(encoding="utf-8") for file in files)
