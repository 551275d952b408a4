"""The packages that cells may import: their names, and the files that these need.

A package comes with those it depends on, as they are installed. All else in the same folders stays
unreadable for a worker.
"""

from __future__ import annotations

import dataclasses
import importlib.machinery
import importlib.metadata
import importlib.util
import re
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path

from privnb.errors import ConfigError

__all__ = ["Offer", "find_offer"]

_OWN_NEED = ("numpy", "pandas", "pyarrow")  # how tables arrive and outputs leave
_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)")
_SITE_FOLDERS = {"site-packages", "dist-packages"}

# Imported before a worker waits, so that a cell need not wait for them.
_AHEAD = {
    "matplotlib": ("matplotlib.pyplot",),
    "scikit-learn": (
        "sklearn.cluster",
        "sklearn.ensemble",
        "sklearn.linear_model",
        "sklearn.metrics",
        "sklearn.model_selection",
        "sklearn.pipeline",
        "sklearn.preprocessing",
    ),
    "scipy": ("scipy.linalg", "scipy.optimize", "scipy.sparse", "scipy.stats"),
    "statsmodels": ("statsmodels.api", "statsmodels.formula.api"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Offer:
    """What a worker's interpreter is given.

    Attributes
    ----------
    names
        Top-level modules that may be imported besides Python's own.
    ahead
        Modules imported before a worker waits.
    search
        ``sys.path`` of the worker.
    listed
        Folders whose names may be listed, so that modules can be found in them.
    read
        Files and folders that may be read.
    """

    names: tuple[str, ...]
    ahead: tuple[str, ...]
    search: tuple[str, ...]
    listed: tuple[str, ...]
    read: tuple[str, ...]


def find_offer(packages: Sequence[str]) -> Offer:
    """Find the installed files of some distributions and of all they depend on.

    Raises `ConfigError` naming a package that is not installed.
    """
    names: set[str] = set()
    search: dict[str, None] = {}
    read: dict[str, None] = {}
    for distribution in _with_dependencies((*packages, *_OWN_NEED)):
        for place in _places(distribution):
            search[str(place.parent)] = None
            read[str(place)] = None
            if name := _module_name(place.name):
                names.add(name)
    python, listed = _standard_library()
    return Offer(
        names=tuple(sorted(names)),
        ahead=tuple(module for package in packages for module in _AHEAD.get(_plain(package), ())),
        search=(*listed, *search),
        listed=(*listed, *search),
        read=(*python, *read),
    )


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _with_dependencies(packages: Iterable[str]) -> list[importlib.metadata.Distribution]:
    wanted = [_plain(package) for package in packages]
    asked_for = set(wanted)
    found: dict[str, importlib.metadata.Distribution] = {}
    while wanted:
        name = wanted.pop()
        if name in found:
            continue
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            if name not in asked_for:
                continue  # needed on another system or by another version of Python
            raise ConfigError(
                f"[python] packages: {name!r} is not installed.",
                hint=f"Install it beside privnb ({sys.executable} -m pip install {name}), "
                "or take it from the list.",
            ) from None
        found[name] = distribution
        for requirement in distribution.requires or ():
            needed = _REQUIREMENT.match(requirement)
            if needed and "extra ==" not in requirement:
                wanted.append(_plain(needed[1]))
    return list(found.values())


def _places(distribution: importlib.metadata.Distribution) -> list[Path]:
    """Return the top-level files and folders of a distribution, editable ones where they lie."""
    tops = {file.parts[0] for file in distribution.files or () if file.parts[0] != ".."}
    tops -= {"__pycache__", "bin"}
    editable = any(top.startswith("__editable__") or top.endswith(".pth") for top in tops)
    places = [
        Path(str(distribution.locate_file(top)))
        for top in sorted(tops)
        if not top.startswith("__editable__") and not top.endswith(".pth")
    ]
    if editable or not any(_module_name(place.name) for place in places):
        listed = (distribution.read_text("top_level.txt") or distribution.metadata["Name"]).split()
        for module in listed:
            specification = importlib.util.find_spec(module.replace("-", "_"))
            if specification is None or specification.origin is None:
                continue
            origin = Path(specification.origin)
            places.append(origin.parent if specification.submodule_search_locations else origin)
    return places


def _module_name(file: str) -> str | None:
    stem, dot, rest = file.partition(".")
    importable = not dot or f".{rest}" in importlib.machinery.all_suffixes()
    return stem if importable and stem.isidentifier() else None


def _standard_library() -> tuple[list[str], list[str]]:
    """Return Python's own files, without the packages that are installed among them."""
    folders = dict.fromkeys(
        sysconfig.get_path(name) for name in ("stdlib", "platstdlib") if sysconfig.get_path(name)
    )
    read = [
        str(entry)
        for folder in folders
        for entry in sorted(Path(folder).iterdir())
        if entry.name not in _SITE_FOLDERS
    ]
    dynamic = [str(Path(folder, "lib-dynload")) for folder in folders]
    return read, [*folders, *(folder for folder in dynamic if Path(folder).is_dir())]
