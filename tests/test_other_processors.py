"""What is compared with a reference agrees on other processors too: this one stands in for those that have less.

Three libraries choose their kernels by what the processor has, and each has a variable that keeps it from it; ours too.
A child process has them from its beginning. On a machine with AVX-512 and AMX, `avx2` is what most others have.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.doses import not_in_small_doses

PROCESSORS = {
    "sse": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "FOUNDRY_MAX_CPU_ISA": "sse"},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "FOUNDRY_MAX_CPU_ISA": "avx2"},
    "avx512 without amx": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16", "FOUNDRY_MAX_CPU_ISA": "avx512"},
}
KERNELS = ["packages/foundry-kernels"]
LAYERS = ["packages/foundry-modules", "plugins", "tests/test_transformers_parity.py", "tests/test_compositions.py"]
HERE = Path(__file__).parents[1]


def passes_on(processor: str, *arguments: str) -> None:
    options = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not slow and not gpu"]
    command = [sys.executable, "-m", "pytest", *options, "--override-ini=addopts=--import-mode=importlib", *arguments]
    environment = os.environ | PROCESSORS[processor] | {"OMP_NUM_THREADS": "1"}
    kept = {key: value for key, value in environment.items() if not key.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=HERE, env=kept, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:]


def test_a_few_kernels_on_the_least_processor():
    """Those whose numbers have been another processor's most: sharp softmaxes, gradients that are 0, bf16."""
    some = "flat_and_peaked or (in_bf16 and stride0) or no_wider or any_order or torchs or plain_ones"
    passes_on("sse", "packages/foundry-kernels", "-k", some)


@pytest.mark.slow
@not_in_small_doses
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("processor", PROCESSORS)
def test_everything_that_is_compared(processor):
    passes_on(processor, *KERNELS, *LAYERS, "-k", "not build and not compile")
