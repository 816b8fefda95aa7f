"""Sampling from a trained model, one token at a time from its KV cache."""

from __future__ import annotations

import codecs
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from foundry.core.contracts import InvalidData, Tokenizer, UsageError
from foundry.core.kernels import plan_decoding
from foundry.core.model import GPT
from foundry.core.model.self_test import check_decoding


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

    def choose(self, logits: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """logits (B, V), and a generator for each row -> token ids (B,)."""
        if self.temperature == 0:
            return logits.argmax(-1)
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
        # As torch.multinomial draws one, of which all rows have one generator: a token with probability p waits for a
        # time Exp(1) / p, and the first one is chosen.
        waiting = torch.empty_like(logits)
        for row, generator in zip(waiting, generators, strict=True):
            row.exponential_(generator=generator)
        return (F.softmax(logits, -1) / waiting).argmax(-1)


def generate_ids(
    model: GPT,
    prompt: Tensor,
    max_tokens: int,
    sampling: Sampling,
    *,
    seed: int | Sequence[int] = 0,
    attention_mask: Tensor | None = None,
    stop: Collection[int] = (),
) -> Iterator[Tensor]:
    """Yield up to `max_tokens` times the next id of each row, (B,) int64. A row is what it is without the others, to
    rounding: greedy, or with a seed of its own.

    The model sees at most its block_size of a row. A row that is longer keeps its newer half, which is read anew, as
    the others then are too: past the context, a batch of B lengths is read B times for every half block it writes.

    Args:
        prompt: (B, T) int64, T >= 1; with `attention_mask` (B, T), prompts of different lengths padded on the left.
        seed: each row is drawn from a generator of its own, which nothing else draws from: row r with the seed
            `seed + r`, or with the r-th of several.
        stop: ids that end a row. One that has chosen such an id repeats it from then on; when all have, iteration ends.

    Raises:
        UsageError: at once: `attention_mask` has padding elsewhere than on the left, or a row of nothing else.
        PluginError: at once: the model says something else from its cache than of the whole text.
    """
    longest = min(prompt.shape[1], model.dims.block_size)
    lengths = [longest] * len(prompt) if attention_mask is None else _lengths(attention_mask[:, -longest:])
    check_decoding(model, padded=len(set(lengths)) > 1)
    seeds = range(seed, seed + len(prompt)) if isinstance(seed, int) else seed
    return _generated(model, prompt, lengths, max_tokens, sampling, seeds, stop)


@torch.inference_mode()
def _generated(
    model: GPT,
    prompt: Tensor,
    lengths: list[int],
    max_tokens: int,
    sampling: Sampling,
    seeds: Sequence[int],
    stop: Collection[int],
) -> Iterator[Tensor]:
    model.eval()
    block_size, device = model.dims.block_size, prompt.device
    plan = plan_decoding(model)
    seen = _Seen(model, prompt, lengths, max_tokens, plan)
    generators = [torch.Generator(device).manual_seed(seed % 2**64) for seed in seeds]
    last = torch.tensor([*stop], dtype=torch.long, device=device)
    ended = torch.zeros(len(prompt), dtype=torch.bool, device=device)
    for left in range(max_tokens, 0, -1):
        if seen.n_ids > block_size:
            half = max(1, block_size // 2)
            lengths = [half if length > block_size else length for length in seen.lengths]
            seen = _Seen(model, seen.ids, lengths, left, plan)
        chosen = sampling.choose(seen.next_logits(), generators)
        if stop:
            chosen = torch.where(ended, seen.ids[:, -1], chosen)
            ended |= torch.isin(chosen, last)
        seen.append(chosen)
        yield chosen
        if stop and bool(ended.all()):
            return


class _Seen:
    """What the model sees of each row: its last ids, all rows' in columns that end together, and the model's memory of
    them. It is made anew where a row loses its first ids: columns, padding, positions and memory count from those.

    Args:
        ids: (B, T) int64.
        lengths: how many of the last ids of each row are seen.
        room: how many more there may be, as far as block_size allows.
        plan: of `plan_decoding`.
    """

    def __init__(self, model: GPT, ids: Tensor, lengths: Sequence[int], room: int, plan: Any | None) -> None:
        self.n_ids, n_rows = max(lengths), len(lengths)
        max_len = min(self.n_ids + room, model.dims.block_size)
        self._model, self._cache, self._n_cached = model, model.init_cache(n_rows, max_len), 0
        self._plan, self._begins = plan, [self.n_ids - length for length in lengths]
        self._ids = ids.new_empty(n_rows, max_len + 1)
        self._ids[:, : self.n_ids] = ids[:, -self.n_ids :]
        columns = torch.arange(max_len, device=ids.device)
        self._mask = columns >= columns.new_tensor(self._begins)[:, None] if any(self._begins) else None

    @property
    def ids(self) -> Tensor:
        """(B, n_ids); what is left of a row's is padding."""
        return self._ids[:, : self.n_ids]

    @property
    def lengths(self) -> list[int]:
        return [self.n_ids - begin for begin in self._begins]

    def next_logits(self) -> Tensor:
        """What the model says of the ids that follow: (B, V)."""
        new, mask = self.ids[:, self._n_cached :], None if self._mask is None else self._mask[:, : self.n_ids]
        self._n_cached = self.n_ids
        return self._model.next_logits(new, self._cache, mask, self._plan)

    def append(self, chosen: Tensor) -> None:
        """chosen (B,) int64."""
        self._ids[:, self.n_ids] = chosen
        self.n_ids += 1


def _lengths(attention_mask: Tensor) -> list[int]:
    """How many tokens each row of (B, T) ends with."""
    real = attention_mask.bool()
    if not real[:, -1].all() or (real[:, :-1] & ~real[:, 1:]).any():
        raise UsageError("attention_mask has padding after a token, or a row without tokens", "pad prompts on the left")
    return real.sum(-1).tolist()


class Continuation(NamedTuple):
    """What was written behind a prompt, and why it ends there."""

    text: str
    finish_reason: Literal["stop", "length"]  # one of the tokenizer's stops was chosen; or there are enough tokens


def stream_text(
    model: GPT,
    tokenizer: Tokenizer,
    prompt: str,
    max_tokens: int,
    sampling: Sampling,
    *,
    seed: int = 0,
    ignore_eos: bool = False,
) -> Iterator[str]:
    """Yield the continuation of `prompt` as it grows. Half a character is held back until it is whole.

    Args:
        ignore_eos: whether to go on where the model ends its text.

    Raises:
        InvalidData: at once, as `first_ids` does.
    """
    start = first_ids(tokenizer, prompt)
    ids = torch.tensor([start], device=model.embed.weight.device)
    stop = () if ignore_eos else tokenizer.stops
    return _decoded(generate_ids(model, ids, max_tokens, sampling, seed=seed, stop=stop), tokenizer, start[-1:])


def continuations(
    model: GPT,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    max_tokens: int,
    sampling: Sampling,
    *,
    seed: int = 0,
    ignore_eos: bool = False,
) -> list[Continuation]:
    """What `stream_text` writes, for several prompts at once: a step of all of them takes little longer than one's.
    The n-th of them, counted from 0, is what `stream_text` writes with the seed `seed + n`.

    Raises:
        InvalidData: as `first_ids` does.
    """
    starts = [first_ids(tokenizer, prompt) for prompt in prompts]
    if not starts or not max_tokens:
        return [Continuation("", "length") for _ in starts]
    width = min(max(map(len, starts)), model.dims.block_size)
    padded = [[0] * (width - len(start)) + start[-width:] for start in starts]
    mask = [[0] * (width - len(start)) + [1] * min(width, len(start)) for start in starts]
    device, stop = model.embed.weight.device, () if ignore_eos else tokenizer.stops
    steps = generate_ids(
        model, torch.tensor(padded, device=device), max_tokens, sampling,
        seed=seed, attention_mask=torch.tensor(mask, device=device), stop=stop,
    )  # fmt: skip
    rows = torch.stack(list(steps), 1).tolist()
    return [_continuation(tokenizer, start, row, stop) for start, row in zip(starts, rows, strict=True)]


def _continuation(tokenizer: Tokenizer, start: list[int], row: list[int], stop: Collection[int]) -> Continuation:
    ends = next((place for place, token in enumerate(row) if token in stop), None)
    written = row if ends is None else row[: ends + 1]
    text = _bytes_behind(tokenizer, start, written).decode("utf-8", errors="replace")
    return Continuation(text, "length" if ends is None else "stop")


def first_ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """What a model reads before its first own token: what the tokenizer puts before a prompt, and the prompt; or what
    begins a document, where that is nothing.

    Raises:
        InvalidData: the vocabulary cannot spell the prompt, or there is nothing to begin with.
    """
    start = [*tokenizer.prefix, *tokenizer.encode(prompt)]
    if not start and "bos" in tokenizer.special_tokens:
        start = [tokenizer.special_tokens["bos"]]
    if not start:
        raise InvalidData("this tokenizer has no bos token to begin with", "give a prompt")
    return start


def _bytes_behind(tokenizer: Tokenizer, before: list[int], ids: list[int]) -> bytes:
    """What `ids` spell behind `before`."""
    return tokenizer.decode_bytes(before + ids)[len(tokenizer.decode_bytes(before)) :]


def _decoded(ids: Iterator[Tensor], tokenizer: Tokenizer, before: list[int]) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for token in map(int, ids):
        new = _bytes_behind(tokenizer, before, [token])
        before = [token] if new else [*before, token]  # what spells nothing may stand before a text's first blank
        if text := decoder.decode(new):
            yield text
    if rest := decoder.decode(b"", final=True):
        yield rest
