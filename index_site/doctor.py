"""``doctor.py``: one file that says how to install the offered release on a machine, or why it cannot be.

It is the modules of ``flash_attn3/doctor``, which a wheel has too, joined behind the facts of this site. They
are read as text: nothing of the package is imported.
"""

from __future__ import annotations

import ast
import json
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.requirements import Requirement
from packaging.utils import parse_wheel_filename
from packaging.version import Version

from index_site.projects import PROJECT
from index_site.releases import has_compat
from index_site.rendering import UNKNOWN_BASE
from index_site.snippets import compat_snippet, snippets

if TYPE_CHECKING:
    from index_site.manifest import Manifest, Wheel

DOCTOR_NAME = "doctor.py"
_SOURCES = Path(__file__).parents[1] / "flash_attn3" / "doctor"
_MODULES = ("release", "driver", "packages", "machine", "commands", "diagnosis", "pasted", "command")
"""In the order in which they use each other."""
_PACKAGE = "flash_attn3"
_FORWARD = "fwd"  # a GPU is served if it has kernels of this operator


def doctor_page(manifest: Manifest, offered: tuple[Wheel, ...]) -> bytes:
    """Return ``doctor.py`` of a site.

    Args:
        manifest: of the site.
        offered: the release that it offers; empty for none.
    """
    facts = json.dumps(release_facts(manifest, offered), indent=1)
    quoted = facts.replace("'", "\\u0027")  # so that no text can end the Python string
    return f"""\
'''Say what {PROJECT} lacks on this machine and the one command that installs it: python {DOCTOR_NAME}

python {DOCTOR_NAME} "ERROR TEXT" explains an error. It needs no package, and changes nothing.
'''

from __future__ import annotations

FACTS = r'''{quoted}'''
{_joined_modules()}

if __name__ == "__main__":
    sys.exit(main(Release(**json.loads(FACTS))))
""".encode()


@cache
def oldest_driver() -> str:
    """Return the oldest CUDA version of a driver that loads the kernels."""
    for node in ast.parse(_source("release")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "OLDEST_DRIVER":
            return str(ast.literal_eval(node.value))
    raise LookupError(f"{_SOURCES / 'release.py'}: OLDEST_DRIVER should be assigned there")


def release_facts(manifest: Manifest, offered: tuple[Wheel, ...]) -> dict[str, Any]:
    """Return the fields of the doctor's ``Release``."""
    base = manifest.base_url or UNKNOWN_BASE
    supports = [support for wheel in offered if (support := manifest.support_of(wheel)) is not None]
    gpus = {gpu.sm: gpu for support in supports for gpu in support.gpus}
    lines = {"pip": "", "uv": "", "compat": ""}
    if offered:
        ways = list(snippets(base, offered[0].channel, offered)[:2])
        if has_compat(manifest, offered[0].channel, offered):
            ways.append(compat_snippet(base, offered[0].channel))
        lines |= {way.key: _arguments(way.command) for way in ways}
    return {
        "version": offered[0].version if offered else "",
        "base_url": base,
        "python": _oldest(f"python{offered[0].requires_python}") if offered else "",
        "torch": _oldest(next((need for wheel in offered for need in wheel.requires_dist), "torch")),
        "tags": sorted(
            {tag.platform for wheel in offered for tag in parse_wheel_filename(wheel.filename)[3]}
        ),
        "sms": {sm: gpu.gpus for sm, gpu in gpus.items() if gpu.operators.get(_FORWARD) is not None},
        "cells": [block.model_dump(mode="json") for support in supports for block in support.cells],
        "exclusions": [item.model_dump(mode="json") for item in manifest.exclusions],
        **lines,
    }


def _arguments(command: str) -> str:
    """Return the arguments of pip in a command of the page: ``uv pip install X`` -> ``install X``."""
    return command[command.index("install ") :]


def _oldest(requirement: str) -> str:
    """Return the lower bound of a requirement: ``torch>=2.9`` -> ``2.9``; ``0`` without one."""
    bounds = [
        item.version for item in Requirement(requirement).specifier if item.operator in {">=", "~=", "=="}
    ]
    return max(bounds, key=Version, default="0")


@cache
def _joined_modules() -> str:
    """Return the modules of the doctor as one, without what they import from each other."""
    return "\n\n".join(_body(_source(name)) for name in _MODULES)


def _source(module: str) -> str:
    return (_SOURCES / f"{module}.py").read_text(encoding="utf-8")


def _body(source: str) -> str:
    lines = source.splitlines()
    for node in ast.parse(source).body:
        if not _stays(node):
            first, last = node.lineno - 1, node.end_lineno or node.lineno
            lines[first:last] = [""] * (last - first)
    return re.sub(r"\n{3,}", "\n\n\n", "\n".join(lines)).strip()


def _stays(node: ast.stmt) -> bool:
    """Return whether a statement is no docstring, no annotation's import and no import of the package."""
    if isinstance(node, ast.ImportFrom):
        return node.module not in {"__future__", "typing"} and not (node.module or "").startswith(_PACKAGE)
    if isinstance(node, ast.If):
        return ast.unparse(node.test) != "TYPE_CHECKING"
    return not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
