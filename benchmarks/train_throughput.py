"""Tokens per second of our trainer, of a bare PyTorch loop on the same model, and of nanoGPT's train.py.

    uv run python benchmarks/train_throughput.py --text input.txt [--peer NANOGPT_CHECKOUT] [--blocks 20] [--compiled]

The recipe is nanoGPT's for a CPU: 4 layers, 4 heads, 128 wide, block 64, batch 12, characters of Shakespeare; in all
three a GPT-2-like model (learned positions, LayerNorm without bias, GELU, tied head). Our trainer and the bare loop use
the same model, kernels, rows, optimizer and clipping. A block is 50 optimizer steps; contenders take turns block by
block.
"""

from __future__ import annotations

import argparse
import builtins
import os
import runpy
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from interleave import Contender, announce, median_interval, take_turns, wait_for_turn

STEPS = 50
BATCH, BLOCK = 12, 64
TOKENS = STEPS * BATCH * BLOCK
WARM_UP_BLOCKS = 2
HERE = Path(__file__).resolve()


def experiment(text: str, compiled: bool):
    """nanoGPT's CPU recipe as an experiment of ours."""
    from foundry.core.config import load_experiment

    settings = {
        "name": "throughput",
        "model_args.n_layer": 4, "model_args.n_head": 4, "model_args.n_embd": 128, "model_args.block_size": BLOCK,
        "model_args.attention": "mha", "model_args.norm": "layernorm", "model_args.activation": "gelu",
        "model_args.position": "learned", "model_args.tie_embeddings": "true",
        "data.dataset": f"{{type: text, path: '{text}'}}", "data.tokenizer": "char",
        "training.batch_size": BATCH, "training.max_iters": 10**6, "training.learning_rate": "1e-3",
        "training.optimizer": "{type: adamw, beta1: 0.9, beta2: 0.99, weight_decay: 0.1}",
        "training.schedule": "cosine", "training.grad_clip": "1.0", "training.eval_interval": 0,
        "training.compile": str(compiled).lower(), "checkpoints.save_interval": 0,
    }  # fmt: skip
    folder = Path(tempfile.mkdtemp())
    file = folder / "throughput.yaml"
    file.write_text("{}\n")
    return load_experiment(file, [f"{key}={value}" for key, value in settings.items()])


def run_trainer(text: str, compiled: bool) -> None:
    """foundry.core.train as it is; its reporter is called every log_interval steps, and there it waits for its turn."""
    from foundry.core.training import train

    class Turns:
        began, blocks = 0.0, -WARM_UP_BLOCKS

        def started(self, plan): ...
        def note(self, text): ...
        def sample(self, step, text): ...
        def finished(self, result): ...
        def step(self, row, progress, seconds_left):
            if row["step"] % STEPS:
                return
            if self.blocks >= 0:
                announce("data_wait", row["data_wait"])
                announce("block", time.perf_counter() - self.began)
                wait_for_turn()
            else:
                self.blocks += 1
                if self.blocks == 0:
                    announce("ready")
                    wait_for_turn()
            self.began = time.perf_counter()

    with tempfile.TemporaryDirectory() as out:
        train(experiment(text, compiled), Path(out) / "run", reporter=Turns())


def run_bare(text: str, compiled: bool) -> None:
    """The least that trains: batch, forward, loss, backward, clip, step."""
    import torch
    from torch.nn import functional as F

    from foundry.core.kernels import native_kernels
    from foundry.core.model import initialize, model_of

    native = native_kernels()

    config = experiment(text, compiled)
    native.use([] if compiled else native.suited())  # the trainer's choice, so that what is left is its overhead
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    rows = config.registry.sections["data"].load()(config.data, block_size=BLOCK, seed=config.seed)
    model = model_of(config, rows.tokenizer.vocab_size)
    initialize(model, config.seed)
    forward = torch.compile(model, dynamic=False) if compiled else model
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}],
        lr=1e-3, betas=(0.9, 0.99), fused=True,
    )  # fmt: skip
    cursor = 0

    def block() -> float:
        nonlocal cursor
        began = time.perf_counter()
        for _ in range(STEPS):
            batch = rows.batch(cursor, cursor + BATCH)
            cursor += BATCH
            logits, _ = forward(torch.from_numpy(batch.tokens))
            loss = F.cross_entropy(logits.flatten(0, 1), torch.from_numpy(batch.targets).flatten())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - began

    for _ in range(WARM_UP_BLOCKS):
        block()
    announce("ready")
    while True:
        wait_for_turn()
        announce("block", block())


def run_peer(checkout: str, compiled: bool) -> None:
    """nanoGPT's train.py, unchanged; it prints every log_interval steps, and there it waits for its turn."""
    os.chdir(checkout)
    sys.path.insert(0, checkout)
    log_interval = 10
    state = {"began": 0.0, "lines": -1 - WARM_UP_BLOCKS * STEPS // log_interval}
    real_print = builtins.print

    def print_and_wait(*args, **kwargs):
        if not (args and str(args[0]).startswith("iter ")):
            return real_print(*args, **kwargs)
        state["lines"] += 1
        if state["lines"] == 0:
            announce("ready")
        elif state["lines"] > 0 and state["lines"] % (STEPS // log_interval) == 0:
            announce("block", time.perf_counter() - state["began"])
        else:
            return None
        wait_for_turn()
        state["began"] = time.perf_counter()
        return None

    builtins.print = print_and_wait
    sys.argv = [
        "train.py", "config/train_shakespeare_char.py", "--device=cpu", f"--compile={compiled}", "--eval_iters=1",
        f"--log_interval={log_interval}", f"--block_size={BLOCK}", f"--batch_size={BATCH}", "--n_layer=4", "--n_head=4",
        "--n_embd=128", "--max_iters=1000000", "--lr_decay_iters=2000", "--dropout=0.0", "--eval_interval=1000000",
    ]  # fmt: skip
    runpy.run_path("train.py", run_name="__main__")


def prepared_checkout(peer: str, text: str) -> str:
    """A copy of the peer with its own data preparation run on our text."""
    copy = Path(tempfile.mkdtemp()) / "peer"
    if (Path(peer) / "train.py").exists():
        shutil.copytree(peer, copy, ignore=shutil.ignore_patterns(".git"))
    else:  # a bare repository
        subprocess.run(["git", "clone", "-q", peer, str(copy)], check=True)
    data = copy / "data" / "shakespeare_char"
    shutil.copy(text, data / "input.txt")
    subprocess.run([sys.executable, "prepare.py"], cwd=data, check=True, stdout=subprocess.DEVNULL)
    return str(copy)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", required=True, help="a text file: tiny Shakespeare for the figures in the docs")
    parser.add_argument("--peer", help="a checkout (or bare repository) of nanoGPT")
    parser.add_argument("--blocks", type=int, default=20)
    parser.add_argument("--compiled", action="store_true", help="measure torch.compile as well")
    parser.add_argument("--worker", choices=["trainer", "bare", "peer"], help=argparse.SUPPRESS)
    parser.add_argument("--mode", default="eager", help=argparse.SUPPRESS)
    args = parser.parse_args()
    text, compiled = str(Path(args.text).resolve()), args.mode == "compiled"
    if args.worker == "trainer":
        return run_trainer(text, compiled)
    if args.worker == "bare":
        return run_bare(text, compiled)
    if args.worker == "peer":
        return run_peer(args.peer, compiled)

    import torch

    from foundry.core.system import available_cores
    from foundry.core.training.device import matmul_rate

    torch.set_num_threads(available_cores())
    rate = matmul_rate(torch.device("cpu"), size=1024, seconds=2.0)
    print(
        f"machine: {available_cores()} cores, torch {torch.__version__}, matrix product {rate / 1e9:.0f} GFLOP/s fp32"
    )
    peer = prepared_checkout(args.peer, text) if args.peer else None
    for mode in ["eager", "compiled"] if args.compiled else ["eager"]:
        contenders = []
        for worker in ["trainer", "bare", *(["peer"] if peer else [])]:
            command = [sys.executable, str(HERE), "--worker", worker, "--mode", mode, "--text", text]
            command += ["--peer", peer] if peer else []
            env = {"OMP_NUM_THREADS": str(available_cores())}
            contenders.append(Contender(worker, command, env=env))
        take_turns(contenders, args.blocks)
        report(mode, contenders)
        for contender in contenders:
            contender.close()


def report(mode: str, contenders: list[Contender]) -> None:
    by_name = {contender.name: contender.seconds for contender in contenders}
    for name, seconds in by_name.items():
        rates = sorted(TOKENS / value for value in seconds)
        step = statistics.median(seconds) / STEPS * 1e3
        print(
            f"{mode:9s}{name:9s}{statistics.median(rates):9.0f} tokens/s  (min {rates[0]:.0f}, max {rates[-1]:.0f}, "
            f"{len(rates)} blocks)  {step:6.2f} ms/step"
        )
    waits = contenders[0].notes["data_wait"]
    print(f"{mode:9s}trainer waits for data {statistics.median(waits):.2%} of the time (most {max(waits):.2%})")
    for other in ("bare", "peer"):
        if other in by_name:
            ratios = [theirs / ours for ours, theirs in zip(by_name["trainer"], by_name[other], strict=True)]
            middle, low, high = median_interval(ratios)
            print(f"{mode:9s}trainer / {other}: {middle:.3f} x the tokens/s  (95 % interval {low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
