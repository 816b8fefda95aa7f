"""Tokens per second of our generation and of transformers' `generate`, greedy, on the same Llama with the same weights.

    uv run --with transformers python benchmarks/generate.py [--sizes 1m,10m,100m] [--batch 1,8] [--blocks 15]

A block is one generation: a prompt of 32 tokens and as many new ones as stand in `SIZES`, per row of the batch.
Contenders take turns block by block; the third one copies memory, so that the bytes of weights which a token at batch
1 needs are held against what the machine moves at that time. Both generators are checked first: the same greedy ids
where the two best logits are at least 1e-4 apart.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from interleave import Contender, announce, median_interval, take_turns, wait_for_turn

PROMPT = 32
WARM_UP_BLOCKS = 2
COPY_BYTES, COPIES = 1 << 28, 4  # a buffer far larger than any cache; how often a block copies it
HERE = Path(__file__).resolve()


class Size(NamedTuple):
    n_layer: int
    n_head: int
    n_kv_head: int
    n_embd: int
    hidden: int
    vocab: int
    new_tokens: int  # in a block: about a second on two cores
    bar: float  # the least ratio that the project promises


SIZES = {
    "1m": Size(4, 4, 2, 128, 344, 2048, 192, 2.0),
    "10m": Size(8, 10, 5, 320, 856, 4096, 128, 2.0),
    "100m": Size(12, 12, 4, 768, 2048, 32000, 48, 1.1),
}


def our_model(size: Size):
    """A Llama of ours with random weights."""
    from foundry.core.config import load_experiment
    from foundry.core.model import initialize, model_of

    settings = {
        "n_layer": size.n_layer, "n_head": size.n_head, "n_embd": size.n_embd, "block_size": PROMPT + size.new_tokens,
        "attention": f"{{type: gqa, n_kv_head: {size.n_kv_head}}}", "ffn": f"{{type: dense, hidden: {size.hidden}}}",
        "norm": "rmsnorm", "activation": "swiglu", "position": "rope", "tie_embeddings": "true",
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "llama.yaml"
        file.write_text("{}\n")
        experiment = load_experiment(file, [f"model_args.{key}={value}" for key, value in settings.items()])
    model = model_of(experiment, size.vocab)
    initialize(model, seed=1)
    return model.eval()


def their_model(size: Size, ours):
    """The same Llama in transformers, with the weights of ours."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=size.vocab, hidden_size=size.n_embd, intermediate_size=size.hidden,
            num_hidden_layers=size.n_layer, num_attention_heads=size.n_head, num_key_value_heads=size.n_kv_head,
            max_position_embeddings=PROMPT + size.new_tokens, rms_norm_eps=1e-5, tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, bos_token_id=None, eos_token_id=None,
        )
    )  # fmt: skip
    renames = (
        ("model.embed_tokens", "embed"), ("model.layers", "blocks"), ("model.norm", "norm"), ("self_attn", "attention"),
        ("input_layernorm", "attention_norm"), ("post_attention_layernorm", "ffn_norm"), ("mlp", "ffn"),
    )  # fmt: skip
    own = dict(ours.named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            for old, new in renames:
                name = name.replace(old, new)
            parameter.copy_(own.pop(name))
    assert not own, f"{', '.join(own)}: not in transformers' model"
    model.generation_config = GenerationConfig(
        do_sample=False, use_cache=True, bos_token_id=None, eos_token_id=None, pad_token_id=0
    )
    return model.eval()


def prompts(size: Size, batch: int):
    import torch

    return torch.randint(size.vocab, (batch, PROMPT), generator=torch.Generator().manual_seed(0))


def our_generator(size: Size, batch: int, model):
    import torch

    from foundry.core.generate import Sampling, generate_ids

    ids = prompts(size, batch)
    return lambda: torch.stack(list(generate_ids(model, ids, size.new_tokens, Sampling(temperature=0))), 1)


def their_generator(size: Size, batch: int, model):
    import torch

    ids = prompts(size, batch)
    mask = torch.ones_like(ids)

    def generate():
        with torch.inference_mode():
            return model.generate(ids, attention_mask=mask, max_new_tokens=size.new_tokens)[:, PROMPT:]

    return generate


def check(size: Size, batch: int) -> None:
    """Both write the same, row by row up to the first near tie, after which the rows are different texts."""
    import torch

    ours = our_model(size)
    theirs = their_model(size, ours)
    ids = prompts(size, batch)
    written, expected = our_generator(size, batch, ours)(), their_generator(size, batch, theirs)()
    with torch.inference_mode():
        logits = theirs(torch.cat([ids, expected], 1)).logits[:, PROMPT - 1 : -1]
    best = logits.topk(2, -1).values
    tied = (best[..., 0] - best[..., 1]) < 1e-4
    comparable = tied.long().cumsum(-1) == 0
    if not torch.equal(written[comparable], expected[comparable]):
        raise SystemExit(f"{size}: the two do not write the same text")


def run_worker(kind: str, size: Size, batch: int) -> None:
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if kind == "copy":
        source, target = torch.ones(COPY_BYTES // 4), torch.zeros(COPY_BYTES // 4)
        work = lambda: [target.copy_(source) for _ in range(COPIES)]  # noqa: E731
    else:
        model = our_model(size)
        if kind == "transformers":
            model = their_model(size, model)
        work = {"foundry": our_generator, "transformers": their_generator}[kind](size, batch, model)
        announce("parameters", sum(parameter.numel() for parameter in model.parameters()))
    for _ in range(WARM_UP_BLOCKS):
        work()
    announce("ready")
    while True:
        wait_for_turn()
        began = time.perf_counter()
        work()
        announce("block", time.perf_counter() - began)


def compare(name: str, batch: int, blocks: int, threads: int) -> None:
    size = SIZES[name]
    contenders = []
    for kind in ["foundry", "transformers", *(["copy"] if batch == 1 else [])]:
        command = [sys.executable, str(HERE), "--worker", kind, "--sizes", name, "--batch", str(batch)]
        contenders.append(Contender(kind, command, env={"OMP_NUM_THREADS": str(threads)}))
    take_turns(contenders, blocks)
    for contender in contenders:
        contender.close()
    ours, theirs, *copy = contenders
    parameters, tokens = int(ours.notes["parameters"][0]), batch * size.new_tokens
    title = f"{name:5s}batch {batch}  "
    for contender in (ours, theirs):
        rates = sorted(tokens / seconds for seconds in contender.seconds)
        step = statistics.median(contender.seconds) / size.new_tokens * 1e3
        spread = f"(min {rates[0]:.1f}, max {rates[-1]:.1f}, {blocks} blocks)"
        print(f"{title}{contender.name:13s}{statistics.median(rates):9.1f} tokens/s  {spread}  {step:.3f} ms/step")
    middle, low, high = median_interval([b / a for a, b in zip(ours.seconds, theirs.seconds, strict=True)])
    print(
        f"{title}foundry / transformers: {middle:.2f} x the tokens/s  (95 % interval {low:.2f} to {high:.2f}; "
        f"bar {size.bar})  {parameters / 1e6:.1f}M parameters"
    )
    if copy:
        moved = [COPIES * 2 * COPY_BYTES / seconds for seconds in copy[0].seconds]
        # The tied head reads the whole embedding. The prompt's forward pass is in the time, too.
        read = [4 * parameters * size.new_tokens / seconds for seconds in ours.seconds]
        middle, low, high = median_interval([a / b for a, b in zip(read, moved, strict=True)])
        print(
            f"{title}weights read at {statistics.median(read) / 1e9:.1f} GB/s, memory copied (read and written) at "
            f"{statistics.median(moved) / 1e9:.1f} GB/s: {middle:.0%}  (95 % interval {low:.0%} to {high:.0%})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1m,10m,100m", help=f"of {', '.join(SIZES)}")
    parser.add_argument("--batch", default="1,8")
    parser.add_argument("--blocks", type=int, default=15)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--worker", choices=["foundry", "transformers", "copy"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    names, batches = args.sizes.split(","), [int(batch) for batch in args.batch.split(",")]
    if args.worker:
        return run_worker(args.worker, SIZES[names[0]], batches[0])

    import torch
    import transformers

    torch.set_num_threads(args.threads)
    print(f"machine: {args.threads} threads, torch {torch.__version__}, transformers {transformers.__version__}, fp32")
    for name in names:
        for batch in batches:
            check(SIZES[name], batch)
            compare(name, batch, args.blocks, args.threads)


if __name__ == "__main__":
    main()
