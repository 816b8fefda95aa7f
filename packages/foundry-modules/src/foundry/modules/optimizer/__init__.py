"""Slot `optimizer`. The target is a function (params, model, learning_rate) -> list of torch optimizers, in which every
trainable parameter stands exactly once."""

from pydantic import Field

from foundry.core.contracts import OptimizerParams, Variant


class AdamWParams(OptimizerParams):
    beta1: float = Field(0.9, ge=0, lt=1, description="decay of the mean of gradients")
    beta2: float = Field(0.95, ge=0, lt=1, description="decay of the mean of squared gradients")
    eps: float = Field(
        1e-8, gt=0, description="added to the root of the mean square", json_schema_extra={"search": False}
    )
    weight_decay: float = Field(0.1, ge=0, description="decoupled; of everything but gains and biases")


class MuonParams(AdamWParams):
    hidden_update = "orthogonal"

    learning_rate: float = Field(
        0.02, gt=0, description="learning rate of the hidden matrices; all else has training.learning_rate"
    )
    momentum: float = Field(0.95, ge=0, lt=1, description="momentum of the hidden matrices' gradients")
    nesterov: bool = Field(True, description="look ahead by one momentum step")
    ns_steps: int = Field(5, ge=1, lt=100, description="Newton-Schulz iterations")


VARIANTS = [
    Variant(
        slot="optimizer",
        name="adamw",
        target="foundry.modules.optimizer.adamw:adamw",
        params=AdamWParams,
        summary="Adam with decoupled weight decay, fused where torch has it",
        reference="arXiv:1711.05101",
    ),
    Variant(
        slot="optimizer",
        name="muon",
        target="foundry.modules.optimizer.muon:muon",
        params=MuonParams,
        summary="orthogonalised momentum for the hidden matrices, AdamW for the rest",
        reference="https://kellerjordan.github.io/posts/muon/",
    ),
]
