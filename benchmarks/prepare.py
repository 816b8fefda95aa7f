"""What it takes to prepare a text: peak memory, the interpreter included, and megabytes of text per second.

uv run python benchmarks/prepare.py [--megabytes 100] [--tokenizers byte bpe] [--texts lines files] [--peer CHECKOUT]

`--peer` is another checkout of Foundry with its own .venv, which prepares the same texts: an older version.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

TOKENIZERS = ("byte", "char", "bpe", "pretrained")
TEXTS = {
    "lines": "one file, a line for every dozen words",
    "unbroken": "one file without a line's end",
    "solid": "one file of letters, without a blank either",
    "random": "one file of random letters, digits and signs, one in a hundred a blank",
    "files": "a file for every 4 kB",
}
FILE_BYTES = 4096
BLOCK_WORDS = 200_000
WORDS = 500_000

PREPARE = """
import sys, time
from pathlib import Path
from foundry.data.corpora import TextParams
from foundry.data.params import DataParams
from foundry.data.prepare import prepare
from foundry.data.tokenize import BPEParams, ByteParams, CharParams, PretrainedParams
text, folder, kind = sys.argv[1:]
chosen = {"byte": ByteParams(), "char": CharParams(), "bpe": BPEParams(vocab_size=4096)}.get(kind)
if chosen is None:
    chosen = PretrainedParams(path=folder + "/tokenizer.json")
began = time.perf_counter()
prepared = prepare(DataParams(dataset=TextParams(path=text), tokenizer=chosen, cache=folder + "/cache"))
seconds = time.perf_counter() - began
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
print(prepared.fingerprint, seconds, status["VmHWM"].split()[0])
"""
# VmHWM is of this program's own memory; what the system tells of a finished child begins at its parent's.

PRETRAINED = """
import sys
from pathlib import Path
from foundry.data.tokenize import BPETokenizer
tokenizer = BPETokenizer(4096)
text = Path(sys.argv[1])
files = [text] if text.is_file() else sorted(text.iterdir())[:1000]
tokenizer.fit(file.open().read(4_000_000) for file in files)
Path(sys.argv[2]).write_text(tokenizer.to_huggingface()["tokenizer.json"])
"""
# A tokenizer.json of GPT's kind; the library `tokenizers` reads it.


def words() -> Iterator[list[str]]:
    """Blocks of words, as often as in a language: the n-th most frequent one in 1/n of its places (Zipf, 1935)."""
    draw = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))
    lengths = draw.integers(2, 11, WORDS)
    vocabulary = ["".join(draw.choice(letters, n)) for n in lengths]
    weights = 1 / np.arange(1, WORDS + 1)
    while True:
        chosen = draw.choice(WORDS, BLOCK_WORDS, p=weights / weights.sum())
        yield [vocabulary[i] for i in chosen]


def texts(kind: str) -> Iterator[str]:
    """Some megabytes at a time, without end."""
    draw = np.random.default_rng(1)
    signs = [*map(chr, range(33, 127)), " "]
    for block in words():
        if kind == "random":
            yield "".join(np.array(signs)[draw.integers(0, len(signs), 2**20)])
        elif kind in ("solid", "unbroken"):
            yield "".join(word + " " * (kind == "unbroken") for word in block)
        else:
            yield "".join(" ".join(block[i : i + 12]) + "\n" for i in range(0, len(block), 12))


def write(kind: str, size: int, place: Path) -> Path:
    """`size` bytes of text in a file or a folder."""
    place = place if kind == "files" else place.with_suffix(".txt")
    if kind == "files":
        place.mkdir()
    written = 0
    for text in texts(kind):
        text = text[: size - written]
        if kind == "files":
            for start in range(0, len(text), FILE_BYTES):
                (place / f"{written + start:012d}.txt").write_text(text[start : start + FILE_BYTES])
        else:
            with open(place, "a") as file:
                file.write(text)
        written += len(text)
        if written == size:
            return place
    raise AssertionError


def measure(checkout: Path, text: Path, tokenizer: str) -> tuple[str, float, float]:
    """The corpus's fingerprint, seconds, and the peak in MB."""
    python = checkout / ".venv" / "bin" / "python"
    with tempfile.TemporaryDirectory(dir=text.parent) as folder:
        if tokenizer == "pretrained":
            ours = [sys.executable, "-c", PRETRAINED, str(text), f"{folder}/tokenizer.json"]
            subprocess.run(ours, check=True, cwd=folder)
        ran = subprocess.run(
            [str(python), "-c", PREPARE, str(text), folder, tokenizer], capture_output=True, text=True, cwd=folder
        )
    if ran.returncode:
        last = ran.stderr.strip().splitlines()[-1:] or [f"ended by signal {-ran.returncode}"]
        return last[0], float("nan"), float("nan")
    fingerprint, seconds, kilobytes = ran.stdout.split()
    return fingerprint, float(seconds), float(kilobytes) * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=100.0)
    parser.add_argument("--tokenizers", nargs="+", choices=TOKENIZERS, default=TOKENIZERS)
    parser.add_argument("--texts", nargs="+", choices=TEXTS, default=["lines"])
    parser.add_argument("--peer", type=Path, help="another checkout, with its own .venv")
    parser.add_argument("--folder", type=Path, help="where there is room for the text and four times its size")
    args = parser.parse_args()
    here = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for kind in args.texts:
            text = write(kind, round(args.megabytes * 1e6), Path(folder) / kind)
            print(f"{args.megabytes:g} MB, {kind}: {TEXTS[kind]}")
            for tokenizer in args.tokenizers:
                told = {}
                for checkout in [here, *([args.peer] if args.peer else [])]:
                    told[checkout] = fingerprint, seconds, peak = measure(checkout, text, tokenizer)
                    speed = f"{args.megabytes / seconds:6.1f} MB/s" if seconds == seconds else fingerprint
                    name = "here" if checkout == here else os.fspath(checkout)
                    ratio = peak / args.megabytes
                    print(
                        f"  {tokenizer:10s} {name:20s} peak {peak:6.0f} MB, {ratio:5.2f} x the text, {speed}",
                        flush=True,
                    )
                if len({fingerprint for fingerprint, *_ in told.values()}) > 1:
                    print(f"  {tokenizer:10s} prepared otherwise: the fingerprints differ")


if __name__ == "__main__":
    main()
