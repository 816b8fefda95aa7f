"""`foundry config inline`: a model as one file of plain PyTorch that says what the model says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.golden import assert_golden
from tests.project import TINY, lines_of_words, working_in, write_project
from tests.runs import saved

from foundry.cli.__main__ import main
from foundry.core import load_experiment, load_run
from foundry.core.config import Experiment
from foundry.core.config.mutate import list_mutations, mutate
from foundry.core.inline import inline
from foundry.core.inline.verify import built
from foundry.core.registry import registry

REPOSITORY = Path(__file__).parents[1]
BASELINE = f"""{TINY}
training: {{max_iters: 2, batch_size: 4, eval_interval: 0, eval_tokens: 64, threads: 1}}
logging: {{sample_tokens: 0}}
"""
SMALL = "model_args: {n_layer: 2, n_head: 4, n_embd: 32, block_size: 64, attention: gqa_2kv}"
OF_LAYERS = [
    *("attention", "ffn", "norm", "activation", "position", "residual", "canon", "value_embedding", "skip", "scaling"),
    *("depth", "width", "block_size", "dropout"),
]
SETTINGS = [
    # what no mutation sets, and few of which go alone
    ["attention={type: gqa, softcap: 30, sinks: true}", "position=alibi", "bias=true"],
    ["attention={type: gqa, qk_norm: true, qk_norm_over: all_heads}", "tie_embeddings=false", "logit_softcap=20"],
    ["attention={type: mla, q_lora_rank: 16}", "position={type: rope, fraction: 0.5}", "norm=layernorm", "bias=true"],
    ["attention={type: nsa, n_kv_head: 2}", "dropout=0.1"],
    ["attention=sparse", "block_size=256", "dropout=0.1"],  # a row that is done in chunks
    ["attention={type: sliding_window, window: 100}", "block_size=256", "position=alibi"],
    *(
        [f"position={{type: rope, scaling: {{type: {name}, factor: 2}}}}"]
        for name in ("linear", "ntk", "yarn", "llama3")
    ),
    ["ffn={type: moe, n_groups: 4, top_k_groups: 2, routed_scaling_factor: 2.5}", "activation=gelu", "bias=true"],
    ["norm=dyt", "bias=true", "residual=sandwich", "canon=abcd", "value_embedding=gated", "skip=x0", "dropout=0.1"],
    ["scaling={type: completep, base_n_embd: 16, base_n_layer: 1}"],
]
PEERS = [
    # of which the model itself imports torch's compiler: seconds
    ["ffn={type: peer, n_experts: 512, product_dims: 3, key_dim: 12, query_norm: batchnorm, scoring: sigmoid}"],
    ["ffn={type: peer, n_experts: 256, expert_width: 2}", "activation=relu2", "bias=true"],
    ["ffn=peer_64k"],
]


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Iterator[Experiment]:
    with working_in(write_project(tmp_path_factory.mktemp("project"), {"experiments/small.yaml": SMALL})):
        yield load_experiment(Path("experiments/small.yaml"))


def test_every_mutation_has_a_file(small):
    """Of those that change the model, PEERS aside; `inline` itself holds the file's logits against the model's."""
    mutations = [(row.type, row.value) for row in list_mutations(registry()) if row.type in OF_LAYERS]
    mutations = [mutation for mutation in mutations if mutation not in (("ffn", "peer"), ("ffn", "peer_64k"))]
    assert len(mutations) > 45
    texts = {inline(mutate(small, *mutation).experiment, 300)[0] for mutation in mutations}
    assert max(len(line) for text in texts for line in text.splitlines()) <= 120
    assert not [text for text in texts if re.search(r"\b(settings|dims|spec|slots|foundry)\.|\bonly\(", text)]


@pytest.mark.parametrize(
    "settings", [*SETTINGS, *(pytest.param(settings, marks=pytest.mark.slow) for settings in PEERS)], ids=" ".join
)
def test_every_setting_has_a_file(small, settings):
    sets = [f"model_args.{setting}" for setting in settings]
    experiment = load_experiment(Path("experiments/small.yaml"), sets)
    text, difference = inline(experiment, 300)
    assert difference < 1e-5
    assert built(text)(torch.zeros(1, 8, dtype=torch.int64)).shape == (1, 8, 300)  # in training, too


@pytest.fixture
def project(tmp_path) -> Iterator[Path]:
    files = {"experiments/baseline.yaml": BASELINE, "corpus.txt": lines_of_words(100)}
    with working_in(write_project(tmp_path / "project", files)) as folder:
        yield folder


def test_the_file_loads_a_runs_weights(project, capsys):
    assert main(["train", "--out", "run"]) == 0
    for _ in range(2):  # what was written before is replaced
        assert main(["config", "inline", "--out", "model.py"]) == 0
    told = capsys.readouterr()
    assert "are the same, bit for bit" in told.err
    assert "next: foundry train" in told.err
    plain = built(Path("model.py").read_text())
    plain.load_state_dict(saved(Path("run")))
    _, tokenizer, model = load_run("run")
    ids = torch.tensor([tokenizer.encode("then the three")])
    with torch.no_grad():
        assert torch.equal(plain.eval()(ids), model(ids)[0])
    Path("model.py").write_text("import torch\n")
    assert main(["config", "inline", "--out", "model.py"]) == 2
    assert Path("model.py").read_text() == "import torch\n"


VARIANT = '''
"""A file of the project's."""

from torch.nn import functional as F

from foundry.core.contracts.plain_text import settings
from foundry.core.contracts import ActivationParams, Variant
from foundry.modules.activation.relu import ReLU


class Leaky(ActivationParams):
    slope: float = 0.1


class LeakyReLU(ReLU):
    def __init__(self, params, dims):
        super().__init__(params, dims)
        self.slope = params.slope

    def forward(self, up):
        return F.leaky_relu(up, self.slope)


def leaky(up):
    return F.leaky_relu(up, negative_slope=settings.slope)


def wrong(up):
    return F.relu(up)


def faulty(up):
    return F.leaky_relu(up, negative_slope=settings.slant)


VARIANTS = [
    Variant("activation", name, f"{__name__}:LeakyReLU", Leaky, plain=plain and f"{__name__}:{plain}")
    for name, plain in {
        "told": "leaky", "untold": "", "mistold": "wrong", "broken": "faulty", "lost": "nowhere"
    }.items()
]
'''


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("untold", 2, "activation untold cannot be inlined: there is no plain text of it"),
        ("mistold", 4, "the plain text is not the model: its logits differ"),
        ("broken", 4, "settings.slant cannot be computed"),
        ("lost", 4, "defines no nowhere"),
    ],
)
def test_what_is_not_the_model_is_not_printed(project, capsys, name, code, says):
    write_project(project, {"variants/leaky.py": VARIANT})
    assert main(["config", "inline", f"--set=model_args.activation={name}", "--out", "model.py"]) == code
    told = capsys.readouterr()
    assert (told.out, says in told.err) == ("", True), told.err
    assert not Path("model.py").exists()


def test_a_file_of_the_projects_tells_its_own_text(project, capsys):
    write_project(project, {"variants/leaky.py": VARIANT})
    assert main(["config", "inline", "--set=model_args.activation={type: told, slope: 0.25}", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert "F.leaky_relu(self.up_proj(x), negative_slope=0.25)" in told["text"]
    assert told["difference"] == 0


def test_the_page_shows_the_baselines_file():
    """docs/model.md; with FOUNDRY_WRITE_GOLDEN it is written anew."""
    page = REPOSITORY / "docs" / "model.md"
    text, _ = inline(load_experiment(REPOSITORY / "experiments" / "baseline.yaml"), 258)
    assert_golden(page, re.sub(r"(?s)(?<=```python\n).*(?=```)", lambda _: text, page.read_text()))
