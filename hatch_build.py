"""The build hook: put the compiled libraries and kernels into the wheel.

With ``FLASH_ATTN3_PREBUILT=DIR`` it packages what the farm compiled into DIR; without it, it compiles with
the toolkit that pip installed into the build environment: every kernel, or those that the patterns in
``FLASH_ATTN3_KERNELS`` (such as ``fwd_sm90_*_d128_*``, separated by spaces) name.
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
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_ROOT = Path(__file__).parent
_PREBUILT = "FLASH_ATTN3_PREBUILT"
_KERNELS = "FLASH_ATTN3_KERNELS"
_TOOLKIT = "12.8"  # the one that [build-system].requires pins
_TARGETS = {
    "x86_64": ("x86_64-linux-gnu.2.17", "manylinux_2_17_x86_64"),
    "aarch64": ("aarch64-linux-gnu.2.28", "manylinux_2_28_aarch64"),
}


class FlashAttn3BuildHook(BuildHookInterface[Any]):
    """Compile, or take what was compiled, and tell the builder where it is."""

    _scratch: Path | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the payload to the wheel and set its tag."""
        if version == "editable":
            payload = _ROOT / "flash_attn3"
            self._compile(payload)
        elif os.environ.get(_PREBUILT):
            payload = Path(os.environ[_PREBUILT])
        else:
            payload = self._scratch = Path(tempfile.mkdtemp(prefix="flash_attn3-"))
            self._compile(payload)
        document = json.loads((payload / "build.json").read_text(encoding="utf-8"))
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{document['platform']}"
        if version != "editable":
            files = ["build.json", *(f"lib/{path.name}" for path in sorted((payload / "lib").iterdir()))]
            build_data["force_include"] |= {str(payload / name): f"flash_attn3/{name}" for name in files}

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the scratch folder."""
        del version, build_data, artifact_path
        if self._scratch is not None:
            shutil.rmtree(self._scratch)

    def _compile(self, payload: Path) -> None:
        sys.path.insert(0, str(_ROOT))
        from kernels.build.compile import compile_variant, inputs_digest
        from kernels.build.host import build_host
        from kernels.build.pack import PackEntry
        from kernels.build.payload import combined_digest, host_digest, write_payload
        from kernels.build.toolkit import find_toolkit
        from kernels.table import Variant, select

        target, tag = self._target()
        toolkit = find_toolkit(self._build_environment())

        def entry(variant: Variant) -> PackEntry:
            return PackEntry(variant, compile_variant(variant, toolkit).image, _TOOLKIT)

        release = self.metadata.version
        variants = select(os.environ.get(_KERNELS, "").split())
        with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
            host = pool.submit(build_host, target, Path(folder), release)
            entries = list(pool.map(entry, variants))
            libraries = {path.name: path.read_bytes() for path in host.result()}
        digests = {variant.name: inputs_digest(variant, toolkit) for variant in variants}
        digests["host libraries"] = host_digest(target, release)
        write_payload(
            payload,
            entries=entries,
            libraries=libraries,
            version=release,
            platform=tag,
            source_digest=combined_digest(digests),
        )

    def _target(self) -> tuple[str, str]:
        machine = platform.machine().lower()
        if sys.platform != "linux" or machine not in _TARGETS:
            raise OSError(
                f"flash_attn3 compiles on Linux, {' or '.join(_TARGETS)}; this is {sys.platform} {machine}"
            )
        return _TARGETS[machine]

    def _build_environment(self) -> Path:
        """Return the folder where pip put the build requirements, which is not where Python's own lie."""
        spec = importlib.util.find_spec("cutlass_library")
        if spec is None or spec.origin is None:
            raise OSError(
                "nvidia-cutlass is not installed in the build environment; build with isolation, "
                "or install what [build-system].requires lists"
            )
        return Path(spec.origin).parents[1]
