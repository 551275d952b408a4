"""A site on disk with real keys and a real database, for every test of this room."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from review_site import ReviewSite


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Two of Alice, Bob and Carol decide on code and output."""
    monkeypatch.setenv("PRIVNB_HOME", str(tmp_path / "home"))
    made = ReviewSite.make(tmp_path / "northside", keys=tmp_path / "home" / "reviewer")
    yield made
    made.close()
