"""Ask which of two mutations is better than the baseline, and by how much."""

from pathlib import Path

from foundry.lab import Budget, Question, Rule, open_lab

BASELINE = """\
model_args: {n_layer: 1, n_head: 2, n_embd: 32, block_size: 32}
data: {dataset: ./words.txt, tokenizer: char}
training: {max_iters: 40, batch_size: 8, learning_rate: 1e-3, eval_tokens: 1024, eval_interval: 0, threads: 1}
logging: {sample_tokens: 0}
"""


def main() -> None:
    file = Path("experiments/baseline.yaml")
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        file.write_text(BASELINE)
        Path("words.txt").write_text("the hen is rather there than here; " * 400)
    question = Question(
        stacks=((("lr", "1e-2"),), (("activation", "relu2"),)),  # an arm is one mutation or more
        rule=Rule(n_max=4),  # pairs of runs of an arm and the baseline, at most
        budget=Budget.parse("20 steps"),
    )
    with open_lab(Path.cwd(), executor="inline") as lab:
        result = lab.sweep(question)
    print(f"winner: {result.conclusion.winner or 'none'}")
    for arm in result.to_json()["arms"]:
        print(f"{arm['arm']}: {arm['verdict']}, {arm['reason']}")


if __name__ == "__main__":
    main()
