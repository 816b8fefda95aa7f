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

What each slot's text is. x is (B, T, C), and what comes out is the same where nothing else is said:

    attention        a module of (config), called with (x, value, mix), where `value` is there only if
                     spec.value_embedding.has_part(dims), and `mix` only if "attention" in spec.canon.inside()
    ffn              a module of (config), called with (x, mix), where `mix` is there only if
                     "ffn" in spec.canon.inside()
    norm             a module of (size)
    activation       a function of (gate, up), or of (up)
    position         a module of (config), called with q or k (B, H, T, D); with T, for the bias (H, T, T) of scores; or
                     with embeddings (B, T, C)
    residual         a function of (x, f, norm, post_norm, dropout), f = the sublayer
    value_embedding  a module of (config), called with (x, ids)
    skip             a module of (config), called with (x, embedded, layer)
    canon            a module of (config) with before_attention, inside_attention, before_ffn and inside_ffn
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
