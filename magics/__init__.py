"""The magics ``%%secure``, ``%%federated`` and ``%privnb``, and how a shell gets and loses them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__all__ = ["load_ipython_extension", "unload_ipython_extension"]

_NAMES = {"cell": ("secure", "federated"), "line": ("privnb", "federated")}


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Register the magics and their completion. Prints nothing, opens nothing."""
    from privnb.magics.completion import Completion  # noqa: PLC0415 - needs IPython's completer
    from privnb.magics.federated import FederatedMagics  # noqa: PLC0415 - needs IPython
    from privnb.magics.secure import SecureMagics  # noqa: PLC0415 - nothing to do outside IPython

    if SecureMagics.__name__ in shell.magics_manager.registry:
        return
    magics = SecureMagics(shell)
    shell.register_magics(magics)
    shell.register_magics(FederatedMagics(shell, magics))
    shell.Completer.custom_matchers.append(Completion(magics).matcher)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Take away everything that loading has added."""
    from privnb.magics.completion import is_ours  # noqa: PLC0415 - needs IPython's completer
    from privnb.magics.federated import FederatedMagics  # noqa: PLC0415 - needs IPython
    from privnb.magics.secure import SecureMagics  # noqa: PLC0415 - nothing to do outside IPython

    manager = shell.magics_manager
    for kind in (SecureMagics, FederatedMagics):
        magics = manager.registry.pop(kind.__name__, None)
        if magics in shell.configurables:
            shell.configurables.remove(magics)
    for kind_of_magic, names in _NAMES.items():
        for name in names:
            manager.magics[kind_of_magic].pop(name, None)
    matchers = shell.Completer.custom_matchers
    matchers[:] = [matcher for matcher in matchers if not is_ours(matcher)]
