"""Tests on a GPU; without one they skip. They need torch, pytest and the package, and nothing of the farm.

`pytest --confcutdir=tests/gpu tests/gpu` runs them alone. FLASH_ATTN3_SITE names the folder into which the
wheel was installed, or several, as PATH does, where the compatibility wheel has one of its own; without it
the package is imported from where Python finds it, the tree itself as a rule.
"""

from __future__ import annotations

import os
import sys

import pytest
import torch

sys.path[:0] = filter(None, os.environ.get("FLASH_ATTN3_SITE", "").split(os.pathsep))


@pytest.fixture(scope="session")
def device():
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture(scope="session")
def transformers():
    module = pytest.importorskip("transformers")
    if not module.utils.is_flash_attn_3_available():
        pytest.skip("transformers takes FlashAttention-3 of an installed wheel alone, and on its GPUs")
    return module
