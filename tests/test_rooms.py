"""Who may import whom: the walls between rooms, read from the code itself."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {
    "privnb": ROOT / "privnb",
    "privnb.magics": ROOT / "magics",
    "privnb.widgets": ROOT / "widgets",
}
PURE = {
    "privnb.computation",
    "privnb.dp",
    "privnb.errors",
    "privnb.output",
    "privnb.pixels",
    "privnb.release",
    "privnb.unseen",
    "privnb.wire",
}
SHOWING = {
    "privnb.drawing",
    "privnb.estimate_rendering",
    "privnb.listings",
    "privnb.rendering",
    "privnb.tabular",
}
SUMMING = {
    f"privnb.federated.{name}"
    for name in ("aggregator", "attempt", "masks", "member", "messages", "ring", "shamir")
}
TO_A_PERSON = {
    "privnb.session",
    "privnb.release",
    "privnb.errors",
    "privnb.federated.drawing",
    "privnb.federated.progress",
    "privnb.federated.release",
    "privnb.federated.runs",
    "privnb.messages",
    "privnb.rendering",
    "privnb.markup",
    "privnb.owner",
    "privnb.review_item",
    "privnb.unseen",
}

MAY_IMPORT = {
    "privnb.audit": set(),
    "privnb.durable": set(),
    "privnb.dp": PURE,
    "privnb.computation": PURE,
    "privnb.release": PURE | SHOWING,
    "privnb.errors": PURE,
    "privnb.wire": PURE,
    "privnb.messages": PURE,
    "privnb.output": PURE,
    "privnb.pixels": PURE,
    "privnb.review_item": PURE,
    "privnb.unseen": set(),
    **dict.fromkeys(SUMMING, PURE | SUMMING | {"privnb.audit", "privnb.messages"}),
    "privnb.magics": TO_A_PERSON | {"privnb.widgets", "privnb.request"},
    "privnb.widgets": TO_A_PERSON,
}
FRONT = {"privnb.magics", "privnb.widgets"}
OWNERS = {"privnb.site", "privnb.owner"}
MAY_NOT_IMPORT = {
    "privnb.session": FRONT | OWNERS,
    "privnb.request": FRONT | OWNERS | {"privnb.datasite"},
    "privnb.federated": FRONT | OWNERS | {"privnb.datasite", "privnb.session"},
    "privnb.store": FRONT | OWNERS | {"privnb.datasite"},
    "privnb.witness": FRONT | OWNERS | {"privnb.datasite", "privnb.session"},
    "privnb.notebook_check": FRONT | OWNERS | {"privnb.datasite", "privnb.session"},
    "privnb.datasite": FRONT | OWNERS | {"privnb.session", "privnb.dp"},
    "privnb.site": FRONT | {"privnb.session", "privnb.request", "privnb.store", "privnb.owner"},
}
ONLY_IN = {
    "syft": "privnb.datasite",
    "syft_rds": "privnb.datasite",
    "syft_job": "privnb.datasite",
    "syft_perms": "privnb.datasite",
    "syft_crypto_python": "privnb.datasite",
    "opendp": "privnb.dp",
    "sqlglot": "privnb.dp",
    "flwr": "privnb.federated",
    "anywidget": "privnb.widgets",
    "bandit": "privnb.site",
}


@functools.cache
def modules() -> dict[str, Path]:
    """Every module of ours, by the name under which it is imported."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join((package, *(p for p in parts if p != "__init__")))] = path
    return found


def imports_at_run_time(path: Path) -> set[str]:
    """Modules that a file imports anywhere but under ``if TYPE_CHECKING``."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & set(modules()) or {node.module or ""}
    return found


def within(name: str, room: str) -> bool:
    return name == room or name.startswith(f"{room}.")


@pytest.mark.parametrize("name", sorted(modules()))
def test_a_module_imports_only_what_its_room_may(name):
    imported = imports_at_run_time(modules()[name])
    ours = {other for other in imported if within(other, "privnb")}
    for room, allowed in MAY_IMPORT.items():
        if within(name, room):
            stray = {o for o in ours if not any(within(o, a) for a in {room, *allowed})}
            assert not stray, f"{name} may not import {stray}"
    for room, forbidden in MAY_NOT_IMPORT.items():
        if within(name, room):
            stray = {o for o in ours if any(within(o, f) for f in forbidden)}
            assert not stray, f"{name} may not import {stray}"
    for package, home in ONLY_IN.items():
        if not within(name, home):
            stray = {o for o in imported if within(o, package)}
            assert not stray, f"only {home} may import {package}"


def test_the_reader_of_imports_sees_a_forbidden_one(tmp_path):
    file = tmp_path / "stray.py"
    file.write_text("def f():\n    from privnb.site import agent\n    import syft.sync\n")
    assert imports_at_run_time(file) >= {"privnb.site.agent", "syft.sync"}


def packages_loaded(code: str) -> set[str]:
    code = f"import sys; {code}; print(*sys.modules)"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/"
    )
    return {name.partition(".")[0] for name in out.stdout.split()}


def test_importing_privnb_loads_nothing_heavy():
    heavy = "pandas numpy matplotlib syft opendp duckdb ibis sqlglot pydantic anywidget sqlalchemy"
    assert packages_loaded("import privnb, privnb.magics") & set(heavy.split()) == set()


def test_drawing_noise_loads_none_of_what_opendp_can_work_with():
    code = "from privnb.dp.noise import LAPLACE; LAPLACE.add_noise([0], sensitivity=1, loss=1)"
    assert packages_loaded(code) & {"opendp", "polars", "scipy", "sklearn"} == {"opendp"}
