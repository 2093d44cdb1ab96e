"""The wheel installed by pip beside flash_attn3: metadata, and detection and use by transformers."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import pytest

from ci.project import compat_version
from kernels.build.version import RELEASE, version_of
from kernels.table import select
from tests.conftest import FEW

if TYPE_CHECKING:
    from pathlib import Path

    from ci.platforms.environment import Environment

pytestmark = pytest.mark.slow
NEEDS_TRANSFORMERS = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="transformers is not installed here"
)

# What transformers asks a machine; the answers are those of a Hopper GPU. Nothing below computes anything.
_AS_IF_ON_A_GPU = """
import torch
torch.cuda.is_available = lambda: True
torch.cuda.get_device_capability = lambda *_: (9, 0)
"""

TRIAL = version_of(select(FEW))
"""The version of flash-attn3 here, which satisfies what the drop-in requires."""


def test_pip_brings_flash_attn3_along(installed: Environment, tmp_path: Path):
    program = """
import importlib.metadata as metadata
import importlib.util
print(metadata.version("flash-attn-3"), metadata.version("flash_attn_3"), metadata.version("flash-attn3"))
names = ("flash_attn_interface", "flash_attn_config", "flash_attn_3", "flash_attn3")
print(*(metadata.packages_distributions()[name] for name in names))
print(all(importlib.util.find_spec(name) for name in names))
"""
    version = compat_version(RELEASE)
    assert installed.python_output(program, cwd=tmp_path).splitlines() == [
        f"{version} {version} {TRIAL}",
        "['flash-attn-3'] ['flash-attn-3'] ['flash-attn-3'] ['flash-attn3']",
        "True",
    ]


def test_what_callers_import_is_there(installed: Environment, tmp_path: Path):
    """The import lines of diffusers, TransformerEngine, Megatron-LM and others."""
    program = """
from flash_attn_interface import flash_attn_func, flash_attn_varlen_func, flash_attn_with_kvcache
from flash_attn_interface import _flash_attn_forward, _flash_attn_backward
from flash_attn_3.flash_attn_interface import _flash_attn_forward as forward
from flash_attn_config import CONFIG
import flash_attn_3._C, torch
assert forward is _flash_attn_forward
assert CONFIG["build_flags"]["FLASHATTENTION_DISABLE_BACKWARD"] is True
print(flash_attn_3.__version__, torch.ops.flash_attn_3.fwd.default.name())
"""
    assert installed.python_output(program, cwd=tmp_path).split() == [
        compat_version(TRIAL),
        "flash_attn_3::fwd",
    ]


@NEEDS_TRANSFORMERS
def test_transformers_finds_the_package(installed: Environment, tmp_path: Path):
    program = """
from transformers.modeling_flash_attention_utils import FLASH_ATTENTION_COMPATIBILITY_MATRIX
from transformers.utils.import_utils import is_flash_attn_3_available
import torch
print(FLASH_ATTENTION_COMPATIBILITY_MATRIX[3]["pkg_availability_check"]())
print(is_flash_attn_3_available() == torch.cuda.is_available())
"""
    assert installed.python_output(program, cwd=tmp_path).split() == ["True", "True"]


@NEEDS_TRANSFORMERS
def test_transformers_takes_its_functions_and_sees_their_options(installed: Environment, tmp_path: Path):
    program = f"""
{_AS_IF_ON_A_GPU}
import flash_attn_interface
from transformers.modeling_flash_attention_utils import _lazy_imports, lazy_import_flash_attention
from transformers.utils.import_utils import is_flash_attn_3_available
print(is_flash_attn_3_available())
functions = _lazy_imports("flash_attention_3")[:3]
names = ("flash_attn_func", "flash_attn_varlen_func")
print(all(found is getattr(flash_attn_interface, name) for found, name in zip(functions, names)))
process, _ = lazy_import_flash_attention("flash_attention_3")[1]
print(*sorted(name for name, found in process.keywords["supports_mapping"].items() if found))
"""
    *found, options = installed.python_output(program, cwd=tmp_path).splitlines()
    assert found == ["True", "True"]
    assert {*("window_size", "softcap", "s_aux", "learnable_sink", "page_table", "deterministic")} <= set(
        options.split()
    )


@NEEDS_TRANSFORMERS
@pytest.mark.parametrize(("asked", "blocks"), [("None", "32"), ("16", "16"), ("0", "0")])
def test_transformers_appends_to_its_cache_through_the_function(
    installed: Environment, tmp_path: Path, asked: str, blocks: str
):
    """Its continuous batching decodes with flash_attn_with_kvcache, unless a user asks for another way."""
    program = f"""
{_AS_IF_ON_A_GPU}
from transformers import ContinuousBatchingConfig, LlamaConfig
from transformers.generation.continuous_batching.initialization import resolve_continuous_batching_config
config = LlamaConfig(attn_implementation="flash_attention_3")
asked = ContinuousBatchingConfig(max_blocks_per_request={asked}, max_memory_percent=0.5)
found = resolve_continuous_batching_config(config, asked, None, False, torch.device("cpu"))
print(found.max_blocks_per_request, config._attn_implementation)
"""
    assert installed.python_output(program, cwd=tmp_path) == f"{blocks} flash_attention_3\n"


def test_the_function_for_caches_is_one_function(installed: Environment, tmp_path: Path):
    """Servers look for page_table in its signature; it is the same wherever it is taken from."""
    program = """
import inspect
import flash_attn3
import flash_attn_interface
from flash_attn_interface import *
import flash_attn_3.flash_attn_interface as package
assert "page_table" in inspect.signature(flash_attn_with_kvcache).parameters
for module in (flash_attn3, flash_attn_interface, package):
    assert module.flash_attn_with_kvcache is flash_attn_with_kvcache
"""
    installed.python_output(program, cwd=tmp_path)


_TRANSFORMERS_CALL = """
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.modeling_flash_attention_utils import _flash_attention_forward

class Calls(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "flash_attn3":
            named = {argument.name: argument.default_value for argument in func._schema.arguments}
            named |= zip(named, args)
            numbers = {k: v for k, v in named.items() if isinstance(v, (bool, int, float))}
            sink = "with a sink" if named.get("sink") is not None else ""
            print(func._opname, sink, *(f"{name}={value}" for name, value in sorted(numbers.items())))
        return func(*args, **(kwargs or {}))

def tensor(*shape, dtype=torch.bfloat16):
    return torch.empty(shape, dtype=dtype, device="meta")

heads, starts = {"query_states": 4, "key_states": 2, "value_states": 2}, tensor(3, dtype=torch.int32)
states = {name: tensor(1, 24, count, 64) for name, count in heads.items()}
with Calls():
    out = _flash_attention_forward(
        **states, attention_mask=None, query_length=24, is_causal=True,
        attn_implementation="flash_attention_3", $OPTIONS
    )
print(tuple(out.shape))
"""


@NEEDS_TRANSFORMERS
@pytest.mark.parametrize(
    ("options", "seen"),
    [
        ("", "fwd  causal=True sm_margin=0"),
        (
            "sliding_window=8, softcap=30.0, softmax_scale=0.5",
            (
                "fwd_masked  attention_chunk=0 causal=True sm_margin=0 softcap=30.0 softmax_scale=0.5 "
                "window_left=7 window_right=7"
            ),
        ),
        (
            "s_aux=tensor(4), cu_seq_lens_q=starts, cu_seq_lens_k=starts, max_length_q=16, max_length_k=16",
            (
                "fwd_varlen with a sink attention_chunk=0 causal=True max_seqlen_k=16 max_seqlen_q=16 "
                "sm_margin=0 softcap=0.0 window_left=-1 window_right=-1"
            ),
        ),
    ],
)
def test_what_models_of_transformers_call_reaches_the_kernels(
    installed: Environment, tmp_path: Path, options: str, seen: str
):
    """On tensors without data: every argument that transformers gives is one that we take, in its meaning."""
    program = _AS_IF_ON_A_GPU + _TRANSFORMERS_CALL.replace("$OPTIONS", options)
    assert installed.python_output(program, cwd=tmp_path).splitlines() == [seen, "(1, 24, 4, 64)"]


_TRANSFORMERS_DECODE = """
pages, table = tensor(9, 16, 2, 64), tensor(24, 4, dtype=torch.int32)
with Calls():
    out = _flash_attention_forward(
        **states, attention_mask=None, query_length=24, is_causal=True,
        attn_implementation="flash_attention_3", k_cache=pages, v_cache=pages, block_table=table,
        cu_seq_lens_q=starts, cu_seq_lens_k=tensor(25, dtype=torch.int32), max_length_q=1, max_length_k=1,
    )
"""


@NEEDS_TRANSFORMERS
def test_what_continuous_batching_of_transformers_calls_appends(installed: Environment, tmp_path: Path):
    program = _TRANSFORMERS_CALL.partition("with Calls():")[0] + _TRANSFORMERS_DECODE
    seen = installed.python_output(_AS_IF_ON_A_GPU + program, cwd=tmp_path).splitlines()
    assert [line.split()[0] for line in seen] == ["append", "fwd_general"]
