"""Seconds of wall clock, from the command to the end, until the whole validation text is predicted as well as
nanoGPT's CPU recipe predicts it: 1.88 nats per character of Shakespeare.

    uv run python benchmarks/time_to_loss.py --text input.txt [--peer NANOGPT_CHECKOUT] [--runs 3]

Ours is `foundry train experiments/shakespeare_char.yaml`, start-up, preparation of the corpus and evaluation included;
nanoGPT's is the command of its README (2,000 iterations, no compilation), its own evaluations included. Both are then
scored on the whole last 10 % of the text in windows of 64 characters.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from train_throughput import prepared_checkout

ROOT = Path(__file__).resolve().parents[1]

PEER_SCORE = """
import sys, numpy as np, torch
sys.path.insert(0, '.')
from model import GPT, GPTConfig
saved = torch.load('out-shakespeare-char/ckpt.pt', map_location='cpu', weights_only=True)
model = GPT(GPTConfig(**saved['model_args'])); model.load_state_dict(saved['model']); model.eval()
data = torch.from_numpy(np.fromfile('data/shakespeare_char/val.bin', dtype=np.uint16).astype(np.int64))
total = count = 0
with torch.no_grad():
    for i in range(0, len(data) - 1, 64):
        x, y = data[i:i+64][None], data[i+1:i+65][None]
        n = y.shape[1]
        logits, _ = model(x[:, :n], y)
        total += torch.nn.functional.cross_entropy(logits[0], y[0], reduction='sum').item(); count += n
print(total / count)
"""


def ours(text: str) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "foundry.cli", "train", str(ROOT / "experiments" / "shakespeare_char.yaml"),
            "--set", f"data.dataset={{type: shakespeare_char, path: '{text}'}}", "--out", f"{folder}/run", "--json",
        ]  # fmt: skip
        began = time.perf_counter()
        env = {**os.environ, "FOUNDRY_CACHE": f"{folder}/cache"}
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=env, cwd=ROOT)
        return time.perf_counter() - began, json.loads(done.stdout)["val_loss"]


def theirs(checkout: str) -> tuple[float, float]:
    command = [
        sys.executable, "train.py", "config/train_shakespeare_char.py", "--device=cpu", "--compile=False",
        "--eval_iters=20", "--log_interval=1", "--block_size=64", "--batch_size=12", "--n_layer=4", "--n_head=4",
        "--n_embd=128", "--max_iters=2000", "--lr_decay_iters=2000", "--dropout=0.0", "--always_save_checkpoint=True",
    ]  # fmt: skip
    began = time.perf_counter()
    subprocess.run(command, check=True, cwd=checkout, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = time.perf_counter() - began
    score = subprocess.run([sys.executable, "-c", PEER_SCORE], check=True, cwd=checkout, capture_output=True, text=True)
    return seconds, float(score.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", required=True)
    parser.add_argument("--peer")
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    text = str(Path(args.text).resolve())
    checkout = prepared_checkout(args.peer, text) if args.peer else None
    rounds = []
    for number in range(args.runs):
        rounds.append((ours(text), theirs(checkout) if checkout else None))
        (seconds, loss), peer = rounds[-1]
        line = f"run {number + 1}: foundry {seconds:6.1f} s  val_loss {loss:.4f}"
        print(line + (f"   nanoGPT {peer[0]:6.1f} s  val_loss {peer[1]:.4f}" if peer else ""), flush=True)
    mine = statistics.median(seconds for (seconds, _), _ in rounds)
    print(f"foundry: median {mine:.1f} s, worst val_loss {max(loss for (_, loss), _ in rounds):.4f}")
    if checkout:
        peer = statistics.median(seconds for _, (seconds, _) in rounds)
        print(f"nanoGPT: median {peer:.1f} s; ours takes {mine / peer:.3f} of it")


if __name__ == "__main__":
    main()
