"""Loads the operator library."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

try:
    import torch
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ImportError(
        f"flash_attn3 needs torch 2.9 or newer, which {sys.prefix} does not have: install torch there first"
    ) from None

FOLDER = Path(__file__).parent / "lib"
OLDEST_TORCH = (2, 9)


def load() -> None:
    """Register the ``flash_attn3::`` operators with torch. Loads no kernel and no driver, and needs no GPU.

    Raises:
        ImportError: torch is too old, or the library is missing or cannot be loaded; the text says which.
    """
    found = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if found < OLDEST_TORCH:
        raise ImportError(f"flash_attn3 needs torch 2.9 or newer; this is torch {torch.__version__}")
    library = FOLDER / "libflash_attn3_torch.so"
    if not library.is_file():
        raise ImportError(
            f"flash_attn3: {library} is not there. A source checkout holds no compiled library: "
            "run `pip install .` in it, and import the installed package from another folder"
        )
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        raise ImportError(
            f"flash_attn3: {library.name} cannot be loaded on {platform.system()} {platform.machine()} "
            f"with torch {torch.__version__}: {error.__cause__ or error}"
        ) from error
