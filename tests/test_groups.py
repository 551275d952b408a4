"""Tests that share something costly are kept together when tests are spread over processes.

Were their groups torn apart, each process would start the demo's sites, JupyterLab and the
sandboxes for itself, and nothing would fail: pytest-xdist names groups in the ids of their tests.
"""

from __future__ import annotations

import pytest


@pytest.mark.xdist_group("together as one")
def test_a_group_is_kept_together(request):
    spread = getattr(request.config.option, "loadgroup", False)
    assert not spread or request.node.nodeid.endswith("@together as one")
