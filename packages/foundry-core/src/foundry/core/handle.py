"""A trained model as a task sees it, in memory or in a run folder."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch.nn import functional as F

from foundry.core.config import Experiment
from foundry.core.config.assemble import edit
from foundry.core.contracts import Edits, Tokenizer
from foundry.core.generate import Sampling, first_ids, stream_text
from foundry.core.loading import load_run
from foundry.core.model import GPT
from foundry.core.run import Run
from foundry.core.training.device import Device

TOKENS_PER_BATCH = 4096
"""In one forward pass, padding included; as many as the validation loss takes."""


class LiveModel:
    """A model in memory. A `foundry.core.contracts.ModelHandle`."""

    def __init__(self, tokenizer: Tokenizer, model: GPT) -> None:
        self._tokenizer, self.model = tokenizer, model

    @property
    def tokenizer(self) -> Tokenizer:
        return self._tokenizer

    @property
    def block_size(self) -> int:
        return self.model.dims.block_size

    @torch.inference_mode()
    def score(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """See `ModelHandle`. What does not fit the context is scored piece by piece, each with as much of what precedes
        it as fits, at least half a block."""
        windows = [(number, *window) for number, pair in enumerate(pairs) for window in self._windows(*pair)]
        windows.sort(key=lambda window: len(window[1]))
        likelihood, greedy = [0.0] * len(pairs), [True] * len(pairs)
        for batch in self._batches(windows):
            width = max(len(ids) for _, ids, _ in batch) - 1
            tokens = torch.zeros(len(batch), width, dtype=torch.long)
            for row, (_, ids, _) in enumerate(batch):  # padded on the right: no position sees what follows it
                tokens[row, : len(ids) - 1] = torch.tensor(ids[:-1])
            logits, _ = self.model(tokens.to(self.model.embed.weight.device))
            for row, (number, ids, scored) in enumerate(batch):
                targets = torch.tensor(ids[-scored:], device=logits.device)
                predicted = logits[row, len(ids) - 1 - scored : len(ids) - 1].float()
                likelihood[number] -= float(F.cross_entropy(predicted, targets, reduction="sum"))
                greedy[number] &= bool((predicted.argmax(-1) == targets).all())
        return list(zip(likelihood, greedy, strict=True))

    def _windows(self, context: str, continuation: str) -> Iterator[tuple[list[int], int]]:
        """(ids, how many of the last are scored): every token of the continuation once, also one that begins in the
        context. Both are read as one text: alone, a tokenizer may put a blank before the continuation."""
        ids = first_ids(self.tokenizer, context + continuation)
        size = self.tokenizer.bytes_of(self.tokenizer.encode(context))
        at = bisect_right(range(len(ids)), size, key=lambda n: self.tokenizer.bytes_of(ids[: n + 1]))
        if at == 0:
            ids, at = [*first_ids(self.tokenizer, ""), *ids], len(first_ids(self.tokenizer, ""))
        while at < len(ids):
            room = max(self.block_size + 1 - at, (self.block_size + 1) // 2)
            end = min(len(ids), at + room)
            yield ids[max(0, end - self.block_size - 1) : end], end - at
            at = end

    def _batches(self, windows: Sequence[tuple[int, list[int], int]]) -> Iterator[Sequence[tuple[int, list[int], int]]]:
        start = 0
        while start < len(windows):
            size = 1
            while start + size < len(windows) and (size + 1) * len(windows[start + size][1]) <= TOKENS_PER_BATCH:
                size += 1
            yield windows[start : start + size]
            start += size

    def generate(self, prompts: Sequence[str], *, max_tokens: int, stop: Sequence[str] = ()) -> list[str]:
        """Greedy continuations, to where the model ends them, each cut before the first of `stop` in it."""
        return [self._continuation(prompt, max_tokens, stop) for prompt in prompts]

    def _continuation(self, prompt: str, max_tokens: int, stop: Sequence[str]) -> str:
        text = ""
        for piece in stream_text(self.model, self.tokenizer, prompt, max_tokens, Sampling(temperature=0)):
            text += piece
            if ends := [at for word in stop if (at := text.find(word)) >= 0]:
                return text[: min(ends)]
        return text


class FinishedRun(LiveModel):
    """The model of a run folder. A `foundry.core.contracts.RunHandle`."""

    def __init__(self, run: Path, experiment: Experiment, tokenizer: Tokenizer, model: GPT) -> None:
        super().__init__(tokenizer, model)
        self.run, self.experiment = run, experiment

    @classmethod
    def of(cls, run: Path) -> FinishedRun:
        """The newest checkpoint of a run, on the device that it was trained on."""
        device = Device.saved_in(Run(run).config(), source=str(run))
        experiment, tokenizer, model = load_run(run, device=device.type)
        return cls(run, experiment, tokenizer, model)

    def train(self, edits: Edits) -> FinishedRun:
        """See `RunHandle`. The new run lies inside this one's folder, so that an evaluation that was cut short goes
        on."""
        from foundry.core.training import train

        experiment = edit(self.experiment, edits, "the task")
        run = self.run / "probes" / experiment.identity[:16]
        train(experiment, run)
        return FinishedRun.of(run)
