"""The words in which a variant is written down in plain PyTorch, for `foundry config inline`.

A variant's plain text is a class or a function that `Variant.plain` names: ordinary Python of torch and the standard
library, beside these names. It is read, and never run as it stands. The command makes of it what one experiment needs:

    settings    the params of the variant
    dims        the sizes of the model around it, and the layer
    spec        what the layer is made of (`LayerSpec`)
                    An expression of these alone is computed, and its value written down. An `if` that asks them is
                    decided, and so is `a if ... else b`; what is not chosen is gone.
    config      an argument of that name holds the sizes of the model, which stay names: config.n_embd
    slots       slots.norm(config.n_embd) is what the layer's norm says: a function that is one `return` is written out
                where it is called; any other function or a class is defined in the text and called
    only        f(x, scale=only(condition, 2.0)): an argument that is there only if the condition holds. A parameter
                says the same: scale: Annotated[float, only(condition)]

Other functions and classes of the same module are defined in the text where it uses them, by the same rules.

What the slots are called with: attention, ffn, position and skip (config); norm (size); activation (gate, up) or (up);
value_embedding (config, size); canon (config); residual (x, f, norm, post_norm, dropout) with the functions of a
sublayer. A position that acts on queries and keys is a module from (B, H, T, D) to the same; one that acts on scores
makes the bias (H, T, T) of T tokens; one that acts on embeddings goes from (B, T, C) to the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from foundry.core.contracts.model import Dims

    Config: TypeAlias = Dims
else:
    Config = Any

settings: Any = None
dims: Any = None
spec: Any = None
slots: Any = None


def only(condition: Any, value: Any = None) -> Any:
    """The value, where the condition holds."""
    return value
