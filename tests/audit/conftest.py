"""Let the tests of this room share their fakes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def log(tmp_path):
    """A site's database with its audit log."""
    from audited_site import AuditedSite

    site = AuditedSite(tmp_path / "site")
    yield site
    site.database.close()
