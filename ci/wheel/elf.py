"""Reads the dynamic section and the symbols of an ELF shared library."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection
from elftools.elf.sections import SymbolTableSection

_GLIBC = re.compile(r"GLIBC_(\d+)\.(\d+)(?:\.\d+)?")


@dataclass(frozen=True)
class SharedLibrary:
    """The fields of a shared library that the dynamic linker uses."""

    machine: str
    """``x86_64`` or ``aarch64``, as in platform tags."""
    needed: tuple[str, ...]
    rpaths: tuple[str, ...]
    exports: tuple[str, ...]
    glibc: tuple[int, int]
    """The newest GLIBC version that a symbol requires; (0, 0) if none does."""


def read_shared_library(data: bytes) -> SharedLibrary:
    """Read an ELF file.

    Raises:
        ValueError: the bytes are not an ELF file.
    """
    try:
        elf = ELFFile(io.BytesIO(data))
        needed: list[str] = []
        rpaths: list[str] = []
        exports: list[str] = []
        glibc = (0, 0)
        for section in elf.iter_sections():
            if isinstance(section, DynamicSection):
                # pyelftools adds one attribute a tag type at run time, which its type hints lack.
                needed += [getattr(tag, "needed") for tag in section.iter_tags("DT_NEEDED")]  # noqa: B009
                rpaths += [getattr(tag, "rpath") for tag in section.iter_tags("DT_RPATH")]  # noqa: B009
                rpaths += [getattr(tag, "runpath") for tag in section.iter_tags("DT_RUNPATH")]  # noqa: B009
            elif isinstance(section, SymbolTableSection) and section.name == ".dynsym":
                exports += [symbol.name for symbol in section.iter_symbols() if _is_exported(symbol.entry)]
            elif isinstance(section, GNUVerNeedSection):
                required = [aux.name for _, auxiliaries in section.iter_versions() for aux in auxiliaries]
                found = [match for name in required if (match := _GLIBC.fullmatch(name))]
                glibc = max([glibc, *((int(match[1]), int(match[2])) for match in found)])
    except ELFError as error:
        raise ValueError(f"is no ELF file: {error}") from error
    machine = {"x64": "x86_64", "AArch64": "aarch64"}.get(elf.get_machine_arch(), elf.get_machine_arch())
    return SharedLibrary(machine, tuple(needed), tuple(rpaths), tuple(sorted(exports)), glibc)


def _is_exported(entry: object) -> bool:
    return (
        entry["st_shndx"] != "SHN_UNDEF"  # type: ignore[index]  # the library types entries as objects
        and entry["st_info"]["bind"] in {"STB_GLOBAL", "STB_WEAK"}  # type: ignore[index]
        and entry["st_other"]["visibility"] in {"STV_DEFAULT", "STV_PROTECTED"}  # type: ignore[index]
    )
