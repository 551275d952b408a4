"""The fakes of this folder, importable by its tests as by the kernels of the browser tests."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
