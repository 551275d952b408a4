"""Notebook cells that compute on data which stays with its owners.

In a notebook::

    %load_ext privnb
    %privnb connect --email ana@uni.example --exchange shared/

and from Python::

    session = privnb.connect(email="ana@uni.example", exchange="shared/")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from privnb.errors import PrivnbError
from privnb.release import Release
from privnb.request import Request
from privnb.session import Session, connect

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__all__ = [
    "PrivnbError",
    "Release",
    "Request",
    "Session",
    "connect",
    "load_ipython_extension",
    "unload_ipython_extension",
]


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Register the magics (``%load_ext privnb``). Prints nothing and opens nothing."""
    from privnb.magics import load_ipython_extension as load  # noqa: PLC0415 - only in IPython

    load(shell)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Take the magics away again (``%unload_ext privnb``)."""
    from privnb.magics import unload_ipython_extension as unload  # noqa: PLC0415 - only in IPython

    unload(shell)
