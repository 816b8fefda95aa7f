"""The attention kernel in C against torch's in fp64, and the way it gets built."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from foundry.kernels import SparsePattern, attention, build, causal_attention, rounding, sparse_attention

needs_compiler = pytest.mark.skipif(build.compiler() is None, reason="needs a C compiler")


@pytest.fixture
def native():
    if reason := build.missing():
        pytest.skip(reason)
    attention.switch(True)
    yield
    attention.switch(False)


def test_one_that_cannot_be_compiled_is_not_switched_on(monkeypatch):
    monkeypatch.setattr(
        attention, "_functions", lambda: build._run(["sh", "-c", "kill -9 $$"])
    )  # as of too little memory
    with pytest.raises(RuntimeError, match="sh cannot compile the kernels: exit status -9"):
        attention.switch(True)
    q, k, v = (draw(1, 2, 16, 8, seed) for seed in range(3))
    assert torch.equal(causal_attention(q, k, v), F.scaled_dot_product_attention(q, k, v, is_causal=True))


def draw(batch: int, n_head: int, length: int, size: int, seed: int) -> torch.Tensor:
    """As a projection makes it: (B, H, T, D) whose memory is (B, T, H, D)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, length, n_head, size, generator=generator).transpose(1, 2).requires_grad_()


def gradients(function, q, k, v, upstream) -> tuple[torch.Tensor, ...]:
    y = function(q, k, v)
    return y, *torch.autograd.grad(y, (q, k, v), upstream)


def assert_equals_fp64(ours, q, k, v, upstream, mask=None) -> None:
    """The result and its gradients are those in fp64, but for what the rounding of their dtype may come to."""
    q, k, v, upstream = (x.detach() for x in (q, k, v, upstream))
    mask = CAUSAL[: q.size(2), : k.size(2)] if mask is None else mask

    def masked(*heads):
        return F.scaled_dot_product_attention(*heads, mask, enable_gqa=True)

    exact = gradients(masked, *(x.double().requires_grad_() for x in (q, k, v)), upstream.double())
    bounds = rounding.of_attention(q, k, v, upstream, mask)
    for name, mine, theirs, bound in zip(bounds._fields, ours, exact, bounds, strict=True):
        assert rounding.excess(mine, theirs, bound) <= 1, name


CAUSAL = torch.ones(1024, 1024, dtype=torch.bool).tril()


def assert_is_native(y: torch.Tensor) -> None:
    assert "CausalAttention" in type(y.grad_fn).__name__


@pytest.mark.parametrize(
    ("batch", "n_head", "n_kv_head", "length", "size"),
    [
        (12, 4, 4, 64, 32),
        (2, 4, 2, 37, 24),
        (1, 6, 1, 16, 9),
        (2, 2, 2, 65, 40),
        (1, 3, 3, 130, 64),
        (1, 2, 1, 33, 256),
    ],
)
def test_values_and_gradients_equal_those_in_fp64(native, batch, n_head, n_kv_head, length, size):
    q = draw(batch, n_head, length, size, 0)
    k, v = draw(batch, n_kv_head, length, size, 1), draw(batch, n_kv_head, length, size, 2)
    upstream = draw(batch, n_head, length, size, 3).detach()
    ours = gradients(causal_attention, q, k, v, upstream)
    assert_is_native(ours[0])
    assert_equals_fp64(ours, q, k, v, upstream)


PATTERNS = [
    SparsePattern(1),
    SparsePattern(40),
    SparsePattern(64),
    SparsePattern(16, block=16, stride=2),
    SparsePattern(96, block=48, stride=3),
    SparsePattern(32, block=16, stride=0),
    SparsePattern(128, block=128, stride=2),
]


def seen(pattern: SparsePattern, t: int, u: int) -> bool:
    """The definition, a pair of tokens at a time."""
    in_window = u >= (t // pattern.block + 1) * pattern.block - pattern.window
    in_column = pattern.stride > 0 and (u // pattern.block + 1) % pattern.stride == 0
    return u <= t and (in_window or in_column)


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda p: f"window{p.window}-block{p.block}-stride{p.stride}")
@pytest.mark.parametrize("sizes", [(2, 4, 2, 37, 24), (1, 3, 3, 130, 64), (2, 2, 1, 513, 9)])
def test_patterns_equal_a_mask(native, sizes, pattern):
    """By the kernel, and by torch in chunks; in 513 tokens most patterns take several panels and chunks."""
    batch, n_head, n_kv_head, length, size = sizes
    q = draw(batch, n_head, length, size, 0)
    k, v = draw(batch, n_kv_head, length, size, 1), draw(batch, n_kv_head, length, size, 2)
    upstream = draw(batch, n_head, length, size, 3).detach()
    mask = torch.tensor([[seen(pattern, t, u) for u in range(length)] for t in range(length)])
    by_kernel = gradients(lambda *heads: causal_attention(*heads, pattern), q, k, v, upstream)
    assert_is_native(by_kernel[0])
    in_chunks = gradients(lambda *heads: sparse_attention(*heads, pattern), q, k, v, upstream)
    for ours in (by_kernel, in_chunks):
        assert_equals_fp64(ours, q, k, v, upstream, mask)


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda p: f"window{p.window}-block{p.block}-stride{p.stride}")
def test_patterns_equal_a_mask_in_bf16(pattern):
    q, k, v, upstream = (draw(2, heads, 513, 16, seed).detach().bfloat16() for seed, heads in enumerate((4, 2, 2, 4)))
    mask = pattern.mask(torch.arange(513), torch.arange(513))
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    ours = gradients(lambda *heads: sparse_attention(*heads, pattern), *leaves, upstream)
    assert_equals_fp64(ours, q, k, v, upstream, mask)


def test_memory_follows_the_window_and_not_the_length(native):
    def scratch(length, pattern):
        q = torch.empty(1, 1, length, 64)
        library = attention._functions()
        return library.attention_backward_scratch(attention._Shape.of(q, q), attention._Pattern.of(pattern, q))

    assert scratch(8192, SparsePattern(256)) == scratch(2048, SparsePattern(256)) < scratch(2048, None) / 3


@pytest.mark.parametrize("factor", [0.0, 30.0, 1e4])
def test_flat_and_peaked_weights(native, factor):
    """Scores far beyond where the exponential function of fp32 ends."""
    q, k, v = (draw(1, 2, 40, 16, seed) for seed in range(3))
    q = (factor * q).detach().requires_grad_()
    upstream = draw(1, 2, 40, 16, 3).detach()
    assert_equals_fp64(gradients(causal_attention, q, k, v, upstream), q, k, v, upstream)


def test_memory_in_any_order(native):
    tensors = [torch.randn(2, 3, 40, 16, 2)[..., seed % 2].requires_grad_() for seed in range(3)]  # no contiguous axis
    tensors[1] = torch.randn(2, 1, 40, 16).expand(2, 3, 40, 16).requires_grad_()
    upstream = torch.ones(()).expand(2, 3, 40, 16)  # what a sum sends back
    ours = gradients(causal_attention, *tensors, upstream)
    assert_is_native(ours[0])
    assert_equals_fp64(ours, *tensors, upstream)


def test_one_thread_and_two_agree_bit_for_bit(native):
    tensors, threads = [draw(3, 4, 50, 32, seed) for seed in range(4)], torch.get_num_threads()
    answers = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            answers.append(gradients(causal_attention, *tensors))
    finally:
        torch.set_num_threads(threads)
    for other in answers[1:]:
        assert all(torch.equal(a, b) for a, b in zip(answers[0], other, strict=True))


def test_a_row_does_not_depend_on_its_batch_nor_a_token_on_the_next(native):
    q, k, v = (draw(3, 2, 48, 16, seed).detach() for seed in range(3))
    y = causal_attention(q, k, v)
    assert torch.equal(y[1:2], causal_attention(q[1:2], k[1:2], v[1:2]))
    k[:, :, 20:], v[:, :, 20:] = 100.0, -100.0
    assert torch.equal(causal_attention(q, k, v)[:, :, :20], y[:, :, :20])


def test_nan_is_not_hidden(native):
    q, k, v = (draw(1, 1, 32, 16, seed).detach() for seed in range(3))
    q[0, 0, 5, 3], v[0, 0, 20, 2] = float("nan"), float("inf")
    y = causal_attention(q, k, v)
    assert y[0, 0, 5].isnan().all()
    assert not y[0, 0, 20:, 2].isfinite().any()
    assert y[0, 0, :5].isfinite().all()


def test_what_it_is_not_made_for_goes_to_torch(native):
    cases = [
        [draw(1, 2, 40, 16, seed).detach().double().requires_grad_() for seed in range(3)],
        [draw(1, 2, 3, 16, seed) for seed in range(3)],
        [draw(1, 2, 40, 4, seed) for seed in range(3)],
        [draw(0, 2, 40, 16, seed) for seed in range(3)],
    ]
    for q, k, v in cases:
        expected = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        assert torch.equal(causal_attention(q, k, v), expected)
    doubles = [x[:, :, :5].detach().requires_grad_() for x in cases[0]]
    assert torch.autograd.gradcheck(causal_attention, doubles)


def test_it_stays_out_of_a_compiled_graph(native):
    tensors, upstream = [draw(1, 2, 32, 16, seed) for seed in range(3)], draw(1, 2, 32, 16, 3).detach()
    compiled = torch.compile(causal_attention, backend="aot_eager", fullgraph=True)
    assert_equals_fp64(gradients(compiled, *tensors, upstream), *tensors, upstream)


def test_there_is_one_openmp_in_the_process(native):
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("needs /proc")
    torch.ones(100_000).exp()
    causal_attention(*(draw(1, 2, 32, 16, seed) for seed in range(3)))
    libraries = {os.path.realpath(path) for path in re.findall(r"(/\S*lib[gi]?omp\S*)", maps.read_text())}
    assert len(libraries) <= 1


@needs_compiler
def test_processes_that_build_at_once_leave_one_library(tmp_path):
    script = f"""
from pathlib import Path
from foundry.kernels import build
build.FLAGS.append("-O0")  # a third of the time
build.keep_in(Path({str(tmp_path / "kernels")!r}))
print(build.missing() or 'built')
"""
    children = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [child.communicate(timeout=200)[0].strip() for child in children] == ["built"] * 2
    assert [file.suffix for file in (tmp_path / "kernels").iterdir()] == [".so"]


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """A process that never built anything."""
    monkeypatch.setattr(build, "_kept_in", tmp_path / "kernels")
    for function in (build.load, build.missing):
        function.cache_clear()
    yield tmp_path
    for function in (build.load, build.missing):
        function.cache_clear()


def test_without_a_compiler_the_answer_is_torchs_and_the_reason_is_told(fresh, monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "no C compiler" in attention.missing()
    q, k, v = (draw(1, 2, 32, 16, seed) for seed in range(3))
    assert torch.equal(causal_attention(q, k, v), F.scaled_dot_product_attention(q, k, v, is_causal=True))


@needs_compiler
def test_a_compiler_that_fails_is_quoted(fresh, monkeypatch):
    monkeypatch.setattr(build, "FLAGS", ["--no-such-flag"])
    assert "no-such-flag" in build.missing()
    assert not list((fresh / "kernels").iterdir())


def test_vectors_are_no_wider_than_asked_for(native):
    assert build.vector_width() <= {"sse": 4, "avx2": 8}.get(os.environ.get("FOUNDRY_MAX_CPU_ISA", ""), 16)


@needs_compiler
def test_an_instruction_set_that_is_none_is_a_reason_for_not_having_them(fresh, monkeypatch):
    monkeypatch.setenv("FOUNDRY_MAX_CPU_ISA", "mmx")
    assert attention.missing() == "FOUNDRY_MAX_CPU_ISA is mmx: set it to sse, avx2, avx512, or not at all"
