"""The example plugin does what Foundry asks of every activation, and what its paper and its summary say.

It needs the plugin installed, as tests/test_third_party_plugin.py does in an environment of its own."""

import math

import pytest
import torch

pytest.importorskip("foundry_plugin_example")

from foundry.core.testing import DIMS, Conformance, assert_rounded, sums_of
from foundry_plugin_example.heads import change_heads
from foundry_plugin_example.params import RepeatParams, XIELUParams
from foundry_plugin_example.repeat import Repeat
from foundry_plugin_example.xielu import XIELU


class TestConformance(Conformance):
    dist = "foundry-plugin-example"


def xielu(params: XIELUParams) -> XIELU:
    module = XIELU(params, DIMS)
    for name, parameter in module.named_parameters():
        with torch.no_grad():
            module.init_parameter(name, parameter, torch.Generator())
    return module


def test_xielu_is_the_papers_formula_and_smooth_at_zero():
    x = torch.linspace(-3, 3, 61, dtype=torch.float64, requires_grad=True)
    y = xielu(XIELUParams(beta=0.25, alpha=0.75)).double()(x)
    expected = torch.where(x > 0, 0.75 * x**2, 0.75 * (torch.exp(x) - 1 - x)) + 0.25 * x
    # Curvatures are kept in fp32, as what softplus makes 0.75 and 0.5 of; the rest is fp64.
    assert_rounded(y, expected, *sums_of(XIELU(XIELUParams(), DIMS)), dtype=torch.float32)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert slope[30].item() == pytest.approx(0.25)  # x = 0, where no curvature is in it
    large = torch.tensor([1e4], requires_grad=True)
    xielu(XIELUParams())(large).sum().backward()
    assert large.grad is not None
    assert large.grad.isfinite().all()


def test_xielu_refuses_a_curvature_that_softplus_cannot_reach():
    assert [key for key, _ in XIELUParams(beta=0.9).problems(DIMS)] == ["alpha"]
    assert list(XIELUParams().problems(DIMS)) == []


def model(n_head=8, n_embd=128, head_dim=None, **attention):
    return {"model_args": {"n_head": n_head, "n_embd": n_embd, "head_dim": head_dim, "attention": attention}}


def test_heads_keeps_the_width_and_the_share_of_key_value_heads():
    assert change_heads(model(type="mha"), "4") == {"model_args.n_head": 4}
    edits = change_heads(model(head_dim=32, type="gqa", n_kv_head=2), "16")
    assert edits == {"model_args.n_head": 16, "model_args.head_dim": 16, "model_args.attention.n_kv_head": 4}


@pytest.mark.parametrize("value", ["3", "0", "-2", "many", "128", "2"])
def test_heads_names_what_would_fit(value):
    with pytest.raises(ValueError, match=r"use one of 4, 8, 16, 32, 64$"):
        change_heads(model(type="gqa", n_kv_head=2), value)


class Copies:
    """Stands for a model that gives each letter of a word that its context has 1 bit, and of any other 4."""

    def score(self, pairs):
        bits = [len(word) * (1 if word in context else 4) for context, word in pairs]
        return [(-each * math.log(2), word in context) for each, (context, word) in zip(bits, pairs, strict=True)]


def test_repeat_tells_what_the_context_saves():
    items = list(Repeat(RepeatParams(words=5, times=3)).run(Copies()))
    assert [item.scores["bits_saved"] for item in items] == pytest.approx([3.0] * 5)
    assert {item.scores["accuracy"] for item in items} == {1.0}
    assert len({item.id for item in items}) == 5
