from __future__ import annotations

import os
import sys
import types

import pytest

from flash_attn3.checks.behaviour.fresh_process import run_fresh


@pytest.fixture
def check(tmp_path, monkeypatch):
    """A function that makes a check of a module of its own from the text of its body."""

    def make(body):
        source = f"import os\ndef check():\n    {body}\n"
        (tmp_path / "module_of_a_check.py").write_text(source)
        module = types.ModuleType("module_of_a_check")
        exec(compile(source, "module_of_a_check.py", "exec"), module.__dict__)  # noqa: S102  written above
        return module.check

    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return make


def test_a_check_runs_in_another_process(check):
    assert run_fresh(
        "x", check(f"return [] if os.getpid() != {os.getpid()} else ['the same process']")
    ).passed


def test_each_failure_is_told(check):
    outcome = run_fresh("x", check("return ['first', 'second']"))
    assert (outcome.section, outcome.name) == ("fresh", "x")
    assert outcome.failures == ("exit 1: first\nsecond\n",)


@pytest.mark.parametrize(
    ("body", "text"), [("raise KeyError('lost')", "KeyError: 'lost'"), ("os._exit(9)", "exit 9: ")]
)
def test_a_process_that_does_not_end_well_fails(check, body, text):
    (failure,) = run_fresh("x", check(body)).failures
    assert text in failure


def test_the_process_imports_this_package(check):
    import flash_attn3  # noqa: PLC0415

    body = (
        "import flash_attn3; return [] if flash_attn3.__file__ == "
        + repr(flash_attn3.__file__)
        + " else ['other']"
    )
    assert run_fresh("x", check(body)).failures == ()
    assert "module_of_a_check" not in sys.modules
