"""The records of the operators: none is missing, and each has what torch needs."""

from __future__ import annotations

import pytest
import torch

from flash_attn3 import _ops
from flash_attn3._ops import operators
from flash_attn3._ops.autograd import ForwardOnly
from flash_attn3._ops.operator import Operator, refuse_vmap

NAMESPACE = "flash_attn3::"
RECORDS = {operator.name: operator for operator in operators()}
Q = torch.empty(2, 8, 4, 64, dtype=torch.bfloat16, device="meta")


def test_every_operator_of_the_libraries_has_a_record():
    registered = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith(NAMESPACE)}
    assert {f"{NAMESPACE}{name}" for name in RECORDS} == {name.split(".")[0] for name in registered}


def test_a_module_added_to_the_folder_is_found(monkeypatch, tmp_path):
    (tmp_path / "decode.py").write_text(
        "from flash_attn3._ops.operator import Operator\n"
        "DECODE = Operator('decode', kernel='decode', check=print, describe=print)\n"
    )
    monkeypatch.setattr(_ops, "__path__", [*_ops.__path__, str(tmp_path)])
    assert [operator.kernel for operator in operators() if operator.name == "decode"] == ["decode"]


def test_the_check_of_an_operator_runs_before_its_results_are_described():
    wrong = Q[:, :, :3]
    with pytest.raises(ValueError, match="k must have a number of heads that divides q's 4; it has 3"):
        torch.ops.flash_attn3.fwd(Q, wrong, wrong, None, False)
    with pytest.raises(ValueError, match="sm_margin must be 0 or more; it is -1"):
        torch.ops.flash_attn3.fwd(Q, Q, Q, None, False, -1)


@pytest.mark.parametrize("number", [-1, 3])
def test_an_unknown_dtype_of_a_combined_output_is_named(number):
    partial, lse = torch.empty(2, 3, 4, 8, device="meta"), torch.empty(2, 3, 4, device="meta")
    with pytest.raises(
        ValueError, match=rf"^out_dtype must be the number of torch.float32, .*; it is {number}"
    ):
        torch.ops.flash_attn3.combine(partial, lse, number)


def test_an_error_is_explained_or_kept():
    error = RuntimeError("from C++")
    operator = RECORDS["fwd"]
    assert operator.explain(error, Q, Q, Q, None, False) is error
    clearer = operator.explain(error, Q, Q, None, None, False)
    assert (type(clearer), str(clearer)) == (TypeError, "v must be a torch.Tensor; its type is NoneType")


def test_only_operators_with_a_backward_class_take_a_gradient():
    kernels = ("fwd", "bwd", "combine", "append")
    records = [operator for operator in RECORDS.values() if operator.kernel in kernels]
    with_class = {operator.name for operator in records if operator.autograd is not None}
    assert with_class == {"fwd", "fwd_general", "fwd_qkvpacked", "bwd", "combine"}
    refusing = {name for name in with_class if issubclass(RECORDS[name].autograd, ForwardOnly)}
    assert refusing == {"bwd", "combine"}
    with pytest.raises(TypeError, match="flash_attn3::fwd_masked takes no input that requires a gradient"):
        RECORDS["fwd_masked"].with_gradient(Q.clone().requires_grad_(), Q, Q, None, False)


def test_vmap_is_refused_of_every_operator():
    with pytest.raises(NotImplementedError, match=r"does not support torch\.vmap"):
        refuse_vmap(None, None)
    for name in RECORDS:
        kernel = f"{NAMESPACE}{name}"
        assert torch._C._dispatch_has_kernel_for_dispatch_key(kernel, "FuncTorchBatched"), name


def test_a_record_cannot_be_changed():
    with pytest.raises(AttributeError):
        RECORDS["fwd"].name = "other"
    assert isinstance(RECORDS["fwd"], Operator)
