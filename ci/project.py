"""The root folder of this source tree."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]
