"""The forward operators where a decode kernel serves them, against doubles of torch and of the driver."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.kernels.host.decode_scenarios import LARGE
from tests.kernels.host.host_api import KERNELS, OK, Api, pack_bytes
from tests.kernels.host.torch_double import Torch, run_operator

if TYPE_CHECKING:
    import ctypes
    from collections.abc import Callable

    from tests.kernels.host.fake_driver import FakeDriver
    from tests.kernels.host.torch_double import TorchTensor

SCENARIOS: dict[str, Callable[..., None]] = {}


def scenario(function: Callable[..., None]) -> Callable[..., None]:
    def with_decode(torch: Torch, fake: FakeDriver) -> None:
        runtime = Api(Path(sys.argv[2]).with_name("libflash_attn3.so"))
        with tempfile.TemporaryDirectory() as folder:
            pack = Path(folder) / "kernels.fa3pack"
            pack.write_bytes(pack_bytes((*KERNELS, LARGE)))
            assert runtime.set_pack(pack) == (OK, "")
            function(torch, fake)

    SCENARIOS[function.__name__] = with_decode
    return function


def one_token(torch: Torch) -> list[ctypes._Pointer[TorchTensor]]:
    return [torch.tensor(shape) for shape in ((2, 1, 8, 128), (2, 5000, 2, 128), (2, 5000, 2, 128))]


@scenario
def few_rows_take_a_workspace_and_give_it_back(torch: Torch, fake: FakeDriver) -> None:
    for call in (torch.call, lambda tensors: torch.general(*tensors)):
        thrown, (out, lse) = call(one_token(torch))
        assert thrown is None
        assert (out.shape, lse.shape) == ((2, 1, 8, 128), (2, 8, 1))
        launch = fake.launches[-1]
        assert fake.kernel(launch) == LARGE.name
        params = launch.decode_params
        assert (params.out.data, params.lse.data) == (out.data, lse.data)
        assert params.partial.out % 128 == 0
        assert params.partial.sums - params.partial.out == params.partial.slots * 64 * 4 * 128 * 4
        assert torch.alive == 2  # the results
        torch.release(out)
        torch.release(lse)


@scenario
def other_calls_take_none(torch: Torch, fake: FakeDriver) -> None:
    thrown, _ = torch.call(torch.qkv())
    assert thrown is None
    assert fake.kernel(fake.launches[-1]) == KERNELS[0].name
    assert torch.alive == 2


@scenario
def a_workspace_without_room_is_named(torch: Torch, fake: FakeDriver) -> None:
    torch.library.fake_fail_allocation(3)  # behind out and lse
    thrown, _ = torch.call(one_token(torch))
    assert thrown == "flash_attn3: workspace could not be allocated: CUDA out of memory"
    assert torch.alive == 0
    assert not fake.launches
    assert torch.call(one_token(torch))[0] is None


if __name__ == "__main__":
    run_operator(*sys.argv[1:], SCENARIOS)
