"""The built-in variants as a plugin: what is listed, and what is refused before anything is built."""

import subprocess
import sys

import pytest

from foundry.core.contracts import Dims
from foundry.modules.attention import GQAParams
from foundry.modules.loss import CrossEntropyParams
from foundry.modules.position import RoPEParams, SinusoidalParams

pytestmark = pytest.mark.quick


def test_listing_imports_neither_torch_nor_numpy():
    code = "import sys, foundry.modules.plugin as p; p.foundry_variants(); print({'torch', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


@pytest.mark.parametrize(
    ("params", "dims", "key", "message"),
    [
        (
            GQAParams(n_kv_head=4),
            {"n_head": 6},
            "n_kv_head",
            "4 does not divide n_head 6; try 1, 2, 3 or 6",
        ),
        (GQAParams(n_kv_head=2), {"n_head": 1}, "n_kv_head", "2 does not divide n_head 1; try 1"),
        (RoPEParams(), {"head_dim": 5}, "type", "head_dim is 5; make it even"),
        (SinusoidalParams(), {"n_embd": 15}, "type", "n_embd is 15; make it even"),
        (CrossEntropyParams(z_loss=1e-4, chunk_tokens=8), {}, "chunk_tokens", "cannot be combined with z_loss"),
    ],
)
def test_impossible_settings_are_named_with_a_way_out(params, dims, key, message):
    sizes = Dims(**{"n_layer": 2, "n_head": 4, "n_embd": 32, "head_dim": 8, "block_size": 16, **dims})
    ((problem_key, problem),) = params.problems(sizes)
    assert problem_key == key
    assert message in problem
