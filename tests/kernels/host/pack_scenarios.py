"""What `test_host_driver.py` runs beside `scenarios.py`: packs that change, and switching between them."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.kernels.host.host_api import (
    BAD_PACK,
    KERNELS,
    OK,
    Api,
    Kernel,
    fwd_args,
    pack_bytes,
)
from tests.kernels.host.scenarios import launch, run_scenario

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.kernels.host.fake_driver import FakeDriver

FULL = KERNELS[0]

SCENARIOS: dict[str, Callable[..., None]] = {}


def scenario(function: Callable[..., None]) -> Callable[..., None]:
    SCENARIOS[function.__name__] = function
    return function


@scenario
def an_altered_cubin_is_not_loaded(api: Api, fake: FakeDriver, pack: Path) -> None:
    good = pack.read_bytes()
    offset = good.index(FULL.image)
    assert api.kernel_count() == len(KERNELS)
    pack.write_bytes(good[:offset] + b"!" + good[offset + 1 :])
    status, message = api.fwd(fwd_args())
    assert (status, message) == (
        BAD_PACK,
        f"kernel pack {pack} is altered: kernel {FULL.name} does not match its digest",
    )
    pack.write_bytes(good[: offset + 10])
    assert api.fwd(fwd_args())[0] == BAD_PACK
    pack.unlink()
    assert "cannot be opened" in api.fwd(fwd_args())[1]
    assert fake.calls("cuModuleLoadData") == 0
    pack.write_bytes(good)
    launch(api, fake, fwd_args())
    pack.unlink()  # what is loaded needs the file no more
    launch(api, fake, fwd_args())


@scenario
def a_pack_can_be_replaced(api: Api, fake: FakeDriver, pack: Path) -> None:
    launch(api, fake, fwd_args())
    other = pack.with_name("other.fa3pack")
    other.write_bytes(pack_bytes((Kernel("replacement", tile_m=64),)))
    assert api.set_pack(pack.with_name("missing"))[0] == BAD_PACK
    assert fake.kernel(launch(api, fake, fwd_args())) == FULL.name
    assert api.set_pack(other) == (OK, "")
    assert fake.kernel(launch(api, fake, fwd_args())) == "replacement"


@scenario
def a_relative_pack_survives_a_change_of_folder(api: Api, fake: FakeDriver, pack: Path) -> None:
    os.chdir(pack.parent)
    assert api.set_pack(Path(pack.name)) == (OK, "")
    os.chdir("/")
    launch(api, fake, fwd_args())


def served(api: Api, fake: FakeDriver, pack: Path) -> str:
    """The kernel that serves a call with this pack."""
    assert api.set_pack(pack) == (OK, "")
    return fake.kernel(launch(api, fake, fwd_args()))


@scenario
def packs_are_switched_without_loading(api: Api, fake: FakeDriver, pack: Path) -> None:
    other, link = pack.with_name("other.fa3pack"), pack.with_name("link.fa3pack")
    other.write_bytes(pack_bytes((Kernel("replacement"),)))
    link.symlink_to(pack)
    os.chdir(pack.parent)
    for _ in range(3):
        for path, name in ((pack, FULL.name), (other, "replacement"), (link, FULL.name)):
            assert served(api, fake, path) == name
            assert served(api, fake, Path(path.name)) == name
    assert fake.calls("cuModuleLoadData") == 2
    launch(api, fake, fwd_args(causal=1))  # of the first pack, and not yet loaded
    assert fake.calls("cuModuleLoadData") == 3
    copy = pack.with_name("copy.fa3pack")
    shutil.copy2(pack, copy)  # as old as the first pack, which may go now
    pack.unlink()
    assert served(api, fake, copy) == FULL.name
    assert fake.calls("cuModuleLoadData") == 4


@scenario
def an_altered_pack_is_opened_again(api: Api, fake: FakeDriver, pack: Path) -> None:
    good, times = pack.read_bytes(), pack.stat()

    def write(data: bytes, seconds_later: int) -> None:
        pack.write_bytes(data)
        os.utime(pack, ns=(times.st_atime_ns, times.st_mtime_ns + seconds_later * 10**9))

    assert served(api, fake, pack) == FULL.name
    write(pack_bytes((Kernel("replacement"), *KERNELS[1:])), 0)  # as large as it was, and as old
    assert served(api, fake, pack) == "replacement"
    write(good, 0)  # as it was first, and still loaded
    assert served(api, fake, pack) == FULL.name
    assert fake.calls("cuModuleLoadData") == 2
    offset = good.index(FULL.image)
    write(good[:offset] + b"!" + good[offset + 1 :], 1)  # the rows are the same, what they vouch for is not
    assert api.set_pack(pack) == (OK, "")
    assert api.fwd(fwd_args())[0] == BAD_PACK
    write(good[:-1], 0)
    assert api.set_pack(pack)[0] == BAD_PACK
    assert fake.calls("cuModuleLoadData") == 2


if __name__ == "__main__":
    run_scenario(SCENARIOS[sys.argv[1]], *sys.argv[2:])
