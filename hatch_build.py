"""The build hook: put the compiled libraries and kernels into the wheel.

With ``FLASH_ATTN3_PREBUILT=DIR`` it packages the payload in DIR (`kernels/build/payload.py`). Without it, it
compiles with the toolkit that pip installed into the build environment: every kernel, or those whose names
match the patterns in ``FLASH_ATTN3_KERNELS`` (such as ``fwd_sm90_*_d128_*``, separated by spaces).
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

if TYPE_CHECKING:
    from collections.abc import Sequence

_ROOT = Path(__file__).parent


class FlashAttn3BuildHook(BuildHookInterface[Any]):
    """Compile, or take the prebuilt payload, and add it to the wheel."""

    _scratch: Path | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the payload to the wheel and set its tag.

        Raises:
            OSError: the version is that of the release, and the kernels are a few.
        """
        sys.path.insert(0, str(_ROOT))
        from kernels.build.payload import PAYLOAD_NAMES
        from kernels.build.version import KERNELS, PREBUILT, requested_version

        if self.metadata.version != requested_version():
            raise OSError(
                f"{KERNELS} makes a trial wheel, {requested_version()}; this tree is an unpacked sdist of "
                f"{self.metadata.version}: build all kernels, or a few in a clone"
            )
        if version == "editable":
            payload = _ROOT / "flash_attn3"
            self._compile(payload)
        elif os.environ.get(PREBUILT):
            payload = Path(os.environ[PREBUILT])
        else:
            payload = self._scratch = Path(tempfile.mkdtemp(prefix="flash_attn3-"))
            self._compile(payload)
        document = json.loads((payload / "build.json").read_text(encoding="utf-8"))
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{_with_older_name(document['platform'])}"
        if version != "editable":
            files = ["build.json", *(f"lib/{name}" for name in PAYLOAD_NAMES)]
            build_data["force_include"] |= {str(payload / name): f"flash_attn3/{name}" for name in files}

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Give a wheel that was compiled here the bytes of the farm's; remove the scratch folder."""
        del version, build_data
        if self._scratch is None:
            return
        from kernels.build.archive import normalised
        from kernels.build.files import write_atomically

        wheel = Path(artifact_path)
        write_atomically(wheel, normalised(wheel.read_bytes()))
        shutil.rmtree(self._scratch)

    def _compile(self, payload: Path) -> None:
        from kernels.build.compile import compile_variant
        from kernels.build.host import TARGETS, build_host
        from kernels.build.pack import PackEntry
        from kernels.build.payload import write_payload
        from kernels.build.toolkit import find_toolkit
        from kernels.build.version import KERNELS, RELEASE
        from kernels.table import Variant, select

        target = _native_target(TARGETS)
        toolkit = find_toolkit(self._build_environment())

        def entry(variant: Variant) -> PackEntry:
            return PackEntry(variant, compile_variant(variant, toolkit).image, toolkit.name)

        variants = select(os.environ.get(KERNELS, "").split())
        with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
            host = pool.submit(build_host, target, Path(folder), RELEASE)
            entries = list(pool.map(entry, variants))
            libraries = {path.name: path.read_bytes() for path in host.result()}
        write_payload(
            payload,
            entries=entries,
            libraries=libraries,
            version=self.metadata.version,
            platform=_platform_tag(target),
        )

    def _build_environment(self) -> Path:
        """Return the site folder that holds the build requirements; with isolation it is pip's own.

        Raises:
            OSError: nvidia-cutlass, one of the requirements, cannot be imported.
        """
        spec = importlib.util.find_spec("cutlass_library")
        if spec is None or spec.origin is None:
            raise OSError(
                "nvidia-cutlass is not installed in the build environment; build with isolation, "
                "or install the dependencies that pyproject.toml lists for the build hook"
            )
        return Path(spec.origin).parents[1]


def _native_target(targets: Sequence[str]) -> str:
    """Return the compile target of this machine.

    Raises:
        OSError: none of the targets is for it.
    """
    machine = platform.machine().lower()
    by_machine = {target.split("-")[0]: target for target in targets}
    if sys.platform != "linux" or machine not in by_machine:
        raise OSError(
            f"flash_attn3 compiles on Linux, {' or '.join(by_machine)}; this is {sys.platform} {machine}"
        )
    return by_machine[machine]


def _platform_tag(target: str) -> str:
    """Return the tag of a target, which names its oldest glibc.

    ``x86_64-linux-gnu.2.17`` -> ``manylinux_2_17_x86_64``
    """
    machine, _, libc = target.split("-")
    return f"manylinux_{libc.removeprefix('gnu.').replace('.', '_')}_{machine}"


def _with_older_name(tag: str) -> str:
    """Return a platform tag, behind its older name if it has one, by which users ask pip for wheels.

    ``manylinux_2_17_x86_64`` -> ``manylinux2014_x86_64.manylinux_2_17_x86_64``
    """
    older = tag.replace("manylinux_2_17_", "manylinux2014_")
    return tag if older == tag else f"{older}.{tag}"
