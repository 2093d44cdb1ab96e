"""Linux on aarch64, as Debian's packages and an emulator of its processor give it on another machine."""

from __future__ import annotations

from ci.platforms.emulated import Emulated

LINUX_AARCH64 = Emulated(
    platform="linux_aarch64",
    emulators=("qemu-aarch64", "qemu-aarch64-static"),
    package="qemu-user",
    architecture="arm64",
    wheels="aarch64-manylinux_2_28",
)
