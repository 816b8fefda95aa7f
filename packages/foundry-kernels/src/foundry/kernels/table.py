"""The operators of Foundry, one entry for each: what it computes, for which tensors, when it is used, and what it is
held against. `foundry kernels` and `foundry doctor` show it; `foundry kernels check` goes through it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from foundry.kernels import attention, chosen_rows, few_rows, matmul, references, whole_layers
from foundry.kernels.linear_cross_entropy import linear_cross_entropy
from foundry.kernels.rms_norm import rms_norm_with_gradient
from foundry.kernels.sparse_attention import sparse_attention_by_hand

When: TypeAlias = Literal["by name", "in decoding", "always"]
"""by name      where a run asks for it: `training.kernels`, which is written down, since results differ by rounding
in decoding  where a text is written (`foundry.kernels.decoding`)
always       where tensors are of the kind that it is for"""


@dataclass(eq=False)
class Kernel:
    """One way to compute an operator.

    Args:
        op: its name; of those by name also in experiments and in the `config.json` of runs.
        device: the type of torch's device, or `any`.
        dtypes: of its operands.
        suits: whether this machine is of a kind on which it was measured to be faster than torch's own.
        missing: why it is not available here; empty where it is.
        fn: computes it, on tensors that it is made for.
        reference: the same by torch's operators, of the same arguments in any precision.
        switch: of those by name, turns it on or off in the whole process.
    """

    op: str
    device: str
    dtypes: tuple[torch.dtype, ...]
    when: When
    suits: Callable[[], bool]
    missing: Callable[[], str]
    fn: Callable[..., Tensor]
    reference: Callable[..., Tensor]
    switch: Callable[[bool], None] | None = None


def _always() -> bool:
    return True


def _nothing() -> str:
    return ""


_FP32, _PRECISE = (torch.float32,), (torch.float32, torch.float64)
_by_name = partial(Kernel, device="cpu", dtypes=_FP32, when="by name")
_in_decoding = partial(
    Kernel, device="cpu", dtypes=_FP32, when="in decoding", suits=few_rows.suits, missing=few_rows.missing
)
_kept = partial(Kernel, when="always", suits=_always, missing=_nothing)

KERNELS = (
    _by_name(
        "attention", suits=attention.suits, missing=attention.missing, switch=attention.switch,
        fn=attention.by_kernel, reference=references.causal_attention,
    ),
    _by_name(
        "matmul", suits=matmul.suits, missing=matmul.missing, switch=matmul.switch,
        fn=matmul.by_onednn, reference=torch.mm,
    ),
    _in_decoding("linear", fn=few_rows.linear, reference=torch.nn.functional.linear),
    _in_decoding("rms_norm", fn=few_rows.rms_norm, reference=references.rms_norm),
    _in_decoding("feed_forward", fn=whole_layers.feed_forward, reference=references.feed_forward),
    _in_decoding("next_token", fn=whole_layers.next_token, reference=references.next_token),
    _kept("rms_norm_with_gradient", "cpu", _PRECISE, fn=rms_norm_with_gradient, reference=references.rms_norm),
    _kept("sparse_attention", "cpu", _PRECISE, fn=sparse_attention_by_hand, reference=references.causal_attention),
    _kept("dot_rows", "any", _PRECISE, fn=chosen_rows.dot_rows, reference=references.dot_rows),
    _kept("add_rows", "any", _PRECISE, fn=chosen_rows.add_rows, reference=references.add_rows),
    _kept(
        "linear_cross_entropy", "any", (*_PRECISE, torch.bfloat16, torch.float16),
        fn=linear_cross_entropy, reference=references.linear_cross_entropy,
    ),
)  # fmt: skip

BY_NAME = {kernel.op: kernel for kernel in KERNELS if kernel.when == "by name"}
"""What `training.kernels` chooses from."""
