"""Bandit's findings, in plain words. It runs in this process, on the text alone, with no file."""

from __future__ import annotations

import functools
import io
import logging
import warnings
from typing import TYPE_CHECKING, Any

from privnb.site.scanning.words import BANDIT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from privnb.site.scanning.text import Remark

__all__ = ["MOST_NODES", "bandit_remarks"]

MOST_NODES = 20_000
"""The largest tree that Bandit looks at; it takes up to 30 microseconds per node."""

_NAME = "cell.py"


def bandit_remarks(source: str) -> Iterator[Remark]:
    """Run those of Bandit's tests that matter here, whatever the code's ``nosec`` comments say."""
    config, manager = _bandit()
    scan = manager.BanditManager(
        config.BanditConfig(),
        "file",
        quiet=True,
        ignore_nosec=True,
        profile={"include": sorted(BANDIT)},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # The documented way reads files by name; this is what it does with each.
        scan._parse_file(_NAME, io.BytesIO(source.encode("utf-8", "replace")), [_NAME])  # noqa: SLF001 - see above
    for issue in scan.results:
        if issue.test_id in BANDIT:
            topic, words = BANDIT[issue.test_id]
            yield 1, int(issue.lineno), topic, words
    if scan.skipped:
        yield 2, 1, "bandit", "Bandit could not look at this code"


@functools.cache
def _bandit() -> tuple[Any, Any]:
    formatwarning = warnings.formatwarning
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its loader of plugins uses an argument that is outdated
        from bandit.core import (  # type: ignore[import-untyped]  # noqa: PLC0415 - takes a while
            config,
            manager,
        )
    warnings.formatwarning = formatwarning  # which it replaces for the whole process
    logging.getLogger("bandit").setLevel(logging.CRITICAL)  # it says what we say in our words
    return config, manager
