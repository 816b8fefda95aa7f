"""Slot `residual`: how a sublayer f and its norm join the residual stream x. Built as `target(params, dims)`."""

from foundry.core.contracts import ResidualParams, Variant


class SandwichParams(ResidualParams):
    has_post_norm = True


VARIANTS = [
    Variant(
        slot="residual",
        name="pre",
        target="foundry.modules.residual.pre:Pre",
        params=ResidualParams,
        summary="x + f(norm(x)): an unbroken path from the embeddings to the head",
        reference="GPT-2, arXiv:2002.04745",
        plain="foundry.modules.residual.plain:pre",
    ),
    Variant(
        slot="residual",
        name="post",
        target="foundry.modules.residual.post:Post",
        params=ResidualParams,
        summary="x + norm(f(x)): what a sublayer adds has one scale (OLMo 2)",
        reference="arXiv:2501.00656",
        plain="foundry.modules.residual.plain:post",
    ),
    Variant(
        slot="residual",
        name="post_add",
        target="foundry.modules.residual.post_add:PostAdd",
        params=ResidualParams,
        summary="norm(x + f(x)): the original transformer; wants warm-up",
        reference="arXiv:1706.03762",
        plain="foundry.modules.residual.plain:post_add",
    ),
    Variant(
        slot="residual",
        name="sandwich",
        target="foundry.modules.residual.sandwich:Sandwich",
        params=SandwichParams,
        summary="x + norm(f(norm(x))): a norm before and one after (Gemma 2)",
        reference="arXiv:2105.13290, arXiv:2408.00118",
        plain="foundry.modules.residual.plain:sandwich",
    ),
]
