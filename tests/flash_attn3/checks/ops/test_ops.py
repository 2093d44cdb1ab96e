from __future__ import annotations

import re
import subprocess
import sys
import types

import pytest
import torch

from flash_attn3.checks import ops
from flash_attn3.checks.ops import op_check, op_checks, races_of
from flash_attn3.checks.ops.opcheck import OpCheck, Selection
from flash_attn3.checks.speed.providers import OTHERS, OURS
from kernels.table import VARIANTS

CPU = torch.device("cpu")


def test_every_operator_of_the_kernel_table_has_one_check():
    found = [check.op for check in op_checks()]
    assert sorted(found) == sorted({variant.op for variant in VARIANTS})
    assert [op_check(op).op for op in found] == found


def test_an_operator_without_a_check_is_named():
    known = sorted(check.op for check in op_checks())
    assert {"combine", "fwd"} <= {*known}
    message = f"op is 'unknown'; it should be one of {', '.join(known)}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        op_check("unknown")
    with pytest.raises(ValueError, match="op is 'combine', which has no races"):
        races_of("combine")


def test_a_module_without_a_check_is_an_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "flash_attn3.checks.ops.empty", types.ModuleType("empty"))
    with pytest.raises(TypeError, match=r"checks\.ops\.empty\.CHECK is None; it should be an OpCheck"):
        ops._check_of("flash_attn3.checks.ops.empty")


def test_a_new_file_is_a_new_operator(site_copy):
    """The one file that an operator adds here."""
    source = """
        from dataclasses import replace
        from flash_attn3.checks.ops.combine import CHECK as COMBINE
        CHECK = replace(COMBINE, op="toy", section="toy")
    """
    folder = site_copy / "flash_attn3" / "checks" / "ops"
    (folder / "toy.py").write_text("\n".join(line.strip() for line in source.splitlines()))
    program = "from flash_attn3.checks import __main__ as c; print(*c.sections())"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=site_copy, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    expected = ["combine", "correctness", "toy", "memory"]  # the last is one of all operators
    assert [section for section in done.stdout.split() if section in expected] == expected


def _unique(names):
    names = list(names)
    return len(set(names)) == len(names)


def test_names_are_unique_in_their_section():
    checks = op_checks()
    reserved = ("memory", "behaviour", "fresh", "race", "host_time", "environment")
    assert _unique([*reserved, *(check.section for check in checks)])
    for check in checks:
        for quick in (False, True):
            assert _unique(case.name for case in check.cases(Selection(quick, samples=20, seed=3)))
    assert _unique(memory.name for check in checks for memory in check.memory())
    assert _unique(name for check in checks for name in (*check.behaviours, *check.mixed_behaviours))
    assert _unique(name for check in checks for name in check.fresh)


def test_quick_cases_are_fewer():
    for check in op_checks():
        full, quick = (check.cases(Selection(quick, samples=0)) for quick in (False, True))
        assert 0 < len(quick) < len(full)
        assert any(check.on_ptx(case) for case in full)


def test_what_selftest_runs_is_there():
    for check in op_checks():
        assert check.selftest.cases()
        assert set(check.selftest.behaviours) <= set(check.behaviours)
        assert {memory.name for memory in check.selftest.memory()} <= {m.name for m in check.memory()}
        assert check.selftest.setting is None or check.races is not None


def test_reports_have_a_ratio_for_every_implementation_that_is_raced():
    for check in op_checks():
        if check.races is not None:
            assert {*check.races.others, *check.races.peers} <= {*OTHERS}


def test_the_host_time_of_every_operator_is_measured():
    names = [name for check in op_checks() for name in check.host_calls(CPU)]
    assert _unique(names)
    for check in op_checks():
        assert any(name.startswith(OURS) for name in check.host_calls(CPU)), check.op


def test_checks_in_a_process_of_their_own_are_functions_of_a_module():
    for check in op_checks():
        for run in check.fresh.values():
            assert getattr(sys.modules[run.__module__], run.__name__) is run


def test_a_check_is_data():
    for check in op_checks():
        assert isinstance(check, OpCheck)
        with pytest.raises(AttributeError):
            check.op = "other"
