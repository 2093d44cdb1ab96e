"""Tests on a GPU; without one they skip. They need torch, pytest and the package, and nothing of the farm.

`pytest --confcutdir=tests/gpu tests/gpu` runs them alone. FLASH_ATTN3_SITE names a folder into which a wheel
was installed; without it the package is imported from where Python finds it, the tree itself as a rule.
"""

from __future__ import annotations

import os
import sys

import pytest
import torch

if "FLASH_ATTN3_SITE" in os.environ:
    sys.path.insert(0, os.environ["FLASH_ATTN3_SITE"])


@pytest.fixture(scope="session")
def device():
    return torch.device("cuda", torch.cuda.current_device())
