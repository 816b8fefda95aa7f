"""Train a small model on a text, and let it write.

Usage: python train_on_own_text.py [FILE]
"""

import sys
from pathlib import Path

from foundry.core import load_run, train
from foundry.core.config import from_plain
from foundry.core.generate import Sampling, stream_text


def main(text: str = "squares.txt") -> None:
    if not Path(text).exists():
        Path(text).write_text("".join(f"{n} squared is {n * n}\n" for n in range(2000)))
    experiment = from_plain({
        "name": "own-text",
        "model_args": {"n_layer": 2, "n_embd": 64, "n_head": 4, "block_size": 64},
        "data": {"dataset": f"./{text}", "tokenizer": "char"},
        "training": {"max_iters": 60, "batch_size": 8, "learning_rate": 3e-3, "eval_tokens": 2048, "threads": 1},
    })  # fmt: skip
    result = train(experiment)
    print(f"{result['val_bpb']:.3f} bits per byte after {result['step']} steps")
    _, tokenizer, model = load_run(result["run"])
    print("1" + "".join(stream_text(model, tokenizer, "1", 100, Sampling(temperature=0.5), seed=0)))


if __name__ == "__main__":
    main(*sys.argv[1:])
