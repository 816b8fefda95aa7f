"""What every optimizer must do, on a toy with a parameter of every kind that a model has."""

import copy
from typing import ClassVar

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from foundry.core.contracts import DECAYING, roles
from foundry.core.testing.case import SEED, Case
from foundry.core.training.optimization import OptimizerSet

CHECKS = (
    "owns_every_parameter_once",
    "lowers_a_loss",
    "obeys_the_learning_rate",
    "obeys_the_scale_rule",
    "spares_gains_and_biases",
    "state_round_trip",
    "is_deterministic",
)
RATE = 0.01


class Toy(nn.Module):
    """Embedding, a stack of layers with matrices, norms and biases, and a head that is tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 16)
        self.wpe = nn.Embedding(8, 16)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16)) for _ in range(2)
        )
        self.head = nn.Linear(16, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids) + self.wpe.weight[: ids.size(1)]
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)

    def loss(self) -> Tensor:
        """Cross-entropy of saying each token again, one later."""
        ids = torch.arange(32).view(4, 8) % 11
        return nn.functional.cross_entropy(self(ids).flatten(0, 1), (ids.flatten() + 1) % 11)


class Experts(nn.Module):
    """Parameters of two linear maps side by side, and of a gain for each: all have an axis more than those of one."""

    roles: ClassVar = {"weight": "matrix", "size": "gain"}

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, 16, 16))
        self.bias = nn.Parameter(torch.zeros(2, 16))
        self.size = nn.Parameter(torch.ones(2, 16))


def toy() -> Toy:
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        return Toy()


def train(model: Toy, optimizers: list[torch.optim.Optimizer], steps: int) -> float:
    loss = torch.tensor(0.0)
    for _ in range(steps):
        loss = model.loss()
        model.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
    return loss.item()


def owns_every_parameter_once(case: Case) -> None:
    """Each trainable parameter is in exactly one group; a frozen one is in none."""
    model = toy()
    model.blocks[0][1].weight.requires_grad_(False)  # type: ignore[index]
    optimizers = case.build(model, RATE)
    owned = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    expected = {id(parameter): name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(owned) == len({id(parameter) for parameter in owned}), "a parameter is in two groups"
    missing = [name for key, name in expected.items() if key not in {id(parameter) for parameter in owned}]
    assert not missing, f"in no group: {', '.join(missing)}"
    assert len(owned) == len(expected), "a parameter is frozen, or not the model's"


def lowers_a_loss(case: Case) -> None:
    """Thirty steps at a reasonable rate lower a small model's loss by half."""
    model = toy()
    first = model.loss().item()
    assert train(model, case.build(model, RATE), steps=30) < first / 2


def obeys_the_learning_rate(case: Case) -> None:
    """With every group's `lr` at 0, as a schedule may set it, nothing moves; the given rate is some group's `lr`."""
    model = toy()
    optimizers = case.build(model, RATE)
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    assert RATE in [group["lr"] for group in groups]
    for group in groups:
        group["lr"] = 0.0
    before = copy.deepcopy(model.state_dict())
    train(model, optimizers, steps=1)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def obeys_the_scale_rule(case: Case) -> None:
    """A parameter's rate is times what the model's `lr_factor` says, and what decays in a step does not change."""
    plain, ruled = toy(), toy()
    halved = "embed.weight", "blocks.0.1.weight"
    ruled.lr_factor = lambda name, update: 0.5 if name in halved else 1.0  # type: ignore[assignment]
    rates = [_rates(model, case.build(model, RATE)) for model in (plain, ruled)]
    for name, (rate, decay) in rates[0].items():
        expected = rate * (0.5 if name in halved else 1), decay
        assert rates[1][name] == expected, f"{name}: its rate and decay per step are {rates[1][name]}, not {expected}"


def spares_gains_and_biases(case: Case) -> None:
    """No gain and no bias decays, however many axes it has."""
    model = toy()
    model.blocks.append(Experts())
    rates, role = _rates(model, case.build(model, RATE)), roles(model)
    for name, parameter in model.named_parameters():
        assert not (rates[name][1] and role[parameter] not in DECAYING), f"{name}, a {role[parameter]}, decays"


def _rates(model: Toy, optimizers: list[torch.optim.Optimizer]) -> dict[str, tuple[float, float]]:
    """Parameter -> its learning rate, and its learning rate times its weight decay."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    return {
        names[parameter]: (group["lr"], group["lr"] * group.get("weight_decay", 0.0))
        for group in groups
        for parameter in group["params"]
    }


def state_round_trip(case: Case) -> None:
    """Interrupted after three steps and resumed from its state, a training ends with the same bits."""
    straight, resumed = toy(), toy()
    train(straight, case.build(straight, RATE), steps=6)
    optimizers = case.build(resumed, RATE)
    train(resumed, optimizers, steps=3)
    # As a checkpoint holds it: tensors by parameter, nothing of the groups.
    saved = load(save(OptimizerSet(optimizers, resumed).tensors()))
    again = case.build(resumed, RATE)
    OptimizerSet(again, resumed).load(saved)
    train(resumed, again, steps=3)
    for name, tensor in straight.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


def is_deterministic(case: Case) -> None:
    """The same training twice gives the same bits."""
    first, second = toy(), toy()
    assert train(first, case.build(first, RATE), steps=3) == train(second, case.build(second, RATE), steps=3)
    for name, tensor in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], tensor), name
