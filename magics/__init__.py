"""The magics ``%%secure`` and ``%privnb``, and how a shell gets and loses them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__all__ = ["load_ipython_extension", "unload_ipython_extension"]

_NAMES = {"cell": "secure", "line": "privnb"}


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Register the magics and their completion. Prints nothing, opens nothing."""
    from privnb.magics.completion import Completion  # noqa: PLC0415 - needs IPython's completer
    from privnb.magics.secure import SecureMagics  # noqa: PLC0415 - nothing to do outside IPython

    if SecureMagics.__name__ in shell.magics_manager.registry:
        return
    magics = SecureMagics(shell)
    shell.register_magics(magics)
    shell.Completer.custom_matchers.append(Completion(magics).matcher)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Take away everything that loading has added."""
    from privnb.magics.completion import is_ours  # noqa: PLC0415 - needs IPython's completer
    from privnb.magics.secure import SecureMagics  # noqa: PLC0415 - nothing to do outside IPython

    manager = shell.magics_manager
    magics = manager.registry.pop(SecureMagics.__name__, None)
    for kind, name in _NAMES.items():
        manager.magics[kind].pop(name, None)
    if magics in shell.configurables:
        shell.configurables.remove(magics)
    matchers = shell.Completer.custom_matchers
    matchers[:] = [matcher for matcher in matchers if not is_ours(matcher)]
