"""Sampling from a trained model, one token at a time from its KV cache."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from foundry.core.contracts import InvalidData, Tokenizer, UsageError
from foundry.core.kernels import decoding_kernels
from foundry.core.model import GPT


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen from its logits.

    temperature 0 is greedy; top_k keeps the k likeliest tokens; top_p the smallest set whose probability reaches p
    (nucleus sampling, arXiv:1904.09751).

    Raises:
        UsageError: a value outside its range.
    """

    temperature: float = 0.8
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise UsageError(f"temperature {self.temperature} is not a number >= 0", "0 means greedy")
        if self.top_k is not None and self.top_k < 1:
            raise UsageError(f"top_k {self.top_k} is less than 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UsageError(f"top_p {self.top_p} is not in (0, 1]")

    def choose(self, logits: Tensor, generator: torch.Generator) -> Tensor:
        """logits (B, V) -> token ids (B, 1)."""
        if self.temperature == 0:
            return logits.argmax(-1, keepdim=True)
        logits = logits.float()
        lowest = torch.finfo(torch.float32).tiny
        logits = (logits - logits.amax(-1, keepdim=True)) / max(self.temperature, lowest)  # the greatest stays 0
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            smallest_kept = logits.topk(self.top_k).values[:, -1:]
            logits = logits.masked_fill(logits < smallest_kept, -torch.inf)
        if self.top_p is not None and self.top_p < 1:
            ordered, order = logits.sort(-1, descending=True)
            probability = F.softmax(ordered, -1)
            before = probability.cumsum(-1) - probability  # the first token always stays
            dropped = before >= self.top_p
            logits = logits.masked_fill(dropped.scatter(-1, order, dropped), -torch.inf)
        return torch.multinomial(F.softmax(logits, -1), 1, generator=generator)


@torch.inference_mode()
def generate_ids(
    model: GPT,
    prompt: Tensor,
    max_tokens: int,
    sampling: Sampling,
    *,
    seed: int = 0,
    attention_mask: Tensor | None = None,
    never: Sequence[int] = (),
) -> Iterator[Tensor]:
    """Yield `max_tokens` times the next id of each sequence, (B,) int64.

    The model sees at most its block_size: when the cache is full, it is filled anew with the newer half.

    Args:
        prompt: (B, T) int64, T >= 1; with `attention_mask` (B, T), prompts of different lengths padded on the left.
        seed: the generator's own; nothing else draws from it.
        never: ids that are not chosen.
    """
    model.eval()
    block_size = model.dims.block_size
    n_rows, n_ids = prompt.shape[0], min(prompt.shape[1], block_size)
    ids = prompt.new_empty(n_rows, block_size + 1)
    ids[:, :n_ids] = prompt[:, -n_ids:]
    mask = None
    if attention_mask is not None and not attention_mask[:, -n_ids:].all():
        mask = torch.ones_like(ids, dtype=torch.bool)
        mask[:, :n_ids] = attention_mask[:, -n_ids:]
    generator = torch.Generator(prompt.device).manual_seed(seed)
    forbidden = torch.tensor(never, dtype=torch.long, device=prompt.device)
    kernels = decoding_kernels()
    cache, n_cached = model.init_cache(n_rows, min(block_size, n_ids + max_tokens)), 0
    for _ in range(max_tokens):
        if n_ids > block_size:
            keep = max(1, block_size // 2)
            for tensor in (ids,) if mask is None else (ids, mask):
                tensor[:, :keep] = tensor[:, n_ids - keep : n_ids].clone()
            cache, n_cached, n_ids = model.init_cache(n_rows), 0, keep
        with kernels:
            logits = model.next_logits(ids[:, n_cached:n_ids], cache, None if mask is None else mask[:, :n_ids])
        if never:
            logits = logits.index_fill(-1, forbidden, -torch.inf)
        chosen = sampling.choose(logits, generator)[:, 0]
        ids[:, n_ids] = chosen
        n_cached, n_ids = n_ids, n_ids + 1
        yield chosen


def stream_text(
    model: GPT, tokenizer: Tokenizer, prompt: str, max_tokens: int, sampling: Sampling, *, seed: int = 0
) -> Iterator[str]:
    """Yield the continuation of `prompt` as it grows. Half a character is held back until it is whole. A `bos` is
    never chosen: it begins documents and is no target in training, so nothing but the embedding speaks for it.

    Raises:
        InvalidData: at once, as `first_ids` does.
    """
    start = torch.tensor([first_ids(tokenizer, prompt)], device=model.embed.weight.device)
    bos = tokenizer.special_tokens.get("bos")
    never = () if bos is None else (bos,)
    return _decoded(generate_ids(model, start, max_tokens, sampling, seed=seed, never=never), tokenizer)


def continuations(
    model: GPT, tokenizer: Tokenizer, prompts: Sequence[str], max_tokens: int, sampling: Sampling, *, seed: int = 0
) -> list[str]:
    """What `stream_text` writes, for several prompts at once: a step of all of them takes little longer than one's.
    The choices are drawn from one generator, so a text depends on its place in the batch, unless it is greedy.

    Raises:
        InvalidData: as `first_ids` does.
    """
    starts = [first_ids(tokenizer, prompt) for prompt in prompts]
    width = min(max(map(len, starts), default=0), model.dims.block_size)
    padded = [[0] * (width - len(start)) + start[-width:] for start in starts]
    mask = [[0] * (width - len(start)) + [1] * min(width, len(start)) for start in starts]
    device, bos = model.embed.weight.device, tokenizer.special_tokens.get("bos")
    steps = generate_ids(
        model, torch.tensor(padded, device=device), max_tokens, sampling,
        seed=seed, attention_mask=torch.tensor(mask, device=device), never=() if bos is None else (bos,),
    )  # fmt: skip
    return [tokenizer.decode(row) for row in torch.stack(list(steps), 1).tolist()] if starts and max_tokens else []


def first_ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """What a model reads before its first own token: `bos`, where the tokenizer has one, and the prompt.

    Raises:
        InvalidData: the vocabulary cannot spell the prompt, or there is nothing to begin with.
    """
    bos = tokenizer.special_tokens.get("bos")
    start = [*([bos] if bos is not None else []), *tokenizer.encode(prompt)]
    if not start:
        raise InvalidData("this tokenizer has no bos token to begin with", "give a prompt")
    return start


def _decoded(ids: Iterator[Tensor], tokenizer: Tokenizer) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for token in ids:
        if text := decoder.decode(tokenizer.decode_bytes([int(token)])):
            yield text
    if rest := decoder.decode(b"", final=True):
        yield rest
