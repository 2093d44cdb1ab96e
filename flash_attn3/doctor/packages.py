"""What is installed for this Python, without importing any of it."""

from __future__ import annotations

import importlib.machinery
import os
import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

PROJECT = "flash-attn3"
COMPAT = "flash-attn-3"
_PROJECTS = (PROJECT, COMPAT, "flash-attn")
_MODULES = ("flash_attn_interface", "flash_attn_3")


@dataclass(frozen=True)
class Distribution:
    """An installed distribution; ``ours`` if this project made it."""

    name: str
    version: str
    folder: str
    ours: bool


@dataclass(frozen=True)
class Module:
    """A module that other projects import: its file or folder, and the distribution that owns it.

    Attributes:
        owner: empty if no installed distribution lists it, as for a file that was copied.
    """

    name: str
    path: str
    owner: str
    ours: bool


@dataclass(frozen=True)
class Torch:
    """The installed torch; ``cuda`` is empty for a build without CUDA, None where nothing says it."""

    version: str
    cuda: str | None


def installed_distributions() -> tuple[Distribution, ...]:
    """Return the installed distributions of FlashAttention, each name in the place that Python takes."""
    found: dict[str, Distribution] = {}
    for distribution in metadata.distributions():
        name = normalised_name(distribution.metadata["Name"] or "")
        if name in _PROJECTS and name not in found:
            folder = str(distribution.locate_file(""))
            found[name] = Distribution(name, distribution.version, folder, _is_ours(name, distribution))
    return tuple(found[name] for name in _PROJECTS if name in found)


def found_modules(distributions: Sequence[Distribution]) -> tuple[Module, ...]:
    """Return the modules of FlashAttention-3 that can be found; ``distributions``: installed ones."""
    places = ((name, find_module(name)) for name in _MODULES)
    return tuple(_module(name, path, distributions) for name, path in places if path)


def installed_torch() -> Torch | None:
    """Return the installed torch, read from its files; None if there is none."""
    text = ""
    place = find_module("torch")
    if place:
        with suppress(OSError):
            text = (Path(place) / "version.py").read_text(encoding="utf-8")
    version = re.search(r"^__version__\s*(?::[^=]*)?=\s*['\"]([^'\"]+)", text, re.MULTILINE)
    cuda = re.search(r"^cuda\s*(?::[^=]*)?=\s*(?:['\"]([^'\"]+)['\"]|None)", text, re.MULTILINE)
    if version is not None:
        return Torch(version.group(1), (cuda.group(1) or "") if cuda else None)
    try:
        return Torch(metadata.version("torch"), None)
    except metadata.PackageNotFoundError:
        return None


def find_module(module: str) -> str:
    """Return the file of a top-level module or the folder of a package; empty if there is none."""
    spec = importlib.machinery.PathFinder.find_spec(module)
    if spec is None:
        return ""
    if spec.submodule_search_locations:
        return str(next(iter(spec.submodule_search_locations)))
    return spec.origin or ""


def owner_of_path(path: str) -> str:
    """Return the distribution whose list of files has a file, or one below a folder; empty for none."""
    for entry in sys.path:
        for distribution in metadata.distributions(path=[entry]):
            for file in distribution.files or ():
                listed = str(distribution.locate_file(file))
                if listed == path or listed.startswith(f"{path}{os.sep}"):
                    return normalised_name(distribution.metadata["Name"] or "")
    return ""


def normalised_name(name: str) -> str:
    """Return the name of a distribution as an index writes it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _module(name: str, path: str, distributions: Sequence[Distribution]) -> Module:
    owner = owner_of_path(path)
    ours = any(found.ours and found.name == owner for found in distributions)
    return Module(name, path, owner, ours)


def _is_ours(name: str, distribution: metadata.Distribution) -> bool:
    if name == COMPAT:
        return any(normalised_name(need).startswith(PROJECT) for need in distribution.requires or ())
    return name == PROJECT
