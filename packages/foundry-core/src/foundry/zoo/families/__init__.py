"""Slot `architecture`: the families of transformers whose models come in and go out, one file each. The target of a
variant is a `foundry.zoo.Family`, and the variant is named as config.json's `model_type` names it.

A plugin adds a family as it adds any variant: `Variant("architecture", "phi", "my_package.phi:PHI")`.
"""

from foundry.core.contracts import Slot, Variant

SLOT = Slot("architecture", "", "", "which models of transformers come in and go out")


def _family(name: str, summary: str) -> Variant:
    target = f"foundry.zoo.families.{name}:{name.upper()}"
    return Variant("architecture", name, target, summary=summary, reference=f"transformers: models/{name}")


# An experiment that several can express is exported as the first of them.
VARIANTS = [
    _family("llama", "rope, rmsnorm, swiglu: Llama 1 to 3"),
    _family("mistral", "llama with a sliding window"),
    _family("qwen2", "llama with biases on queries, keys and values"),
    _family("qwen3", "llama with a norm on each head's query and key"),
    _family("olmo2", "norms after the sublayers, and over all heads of queries and keys"),
    _family("phi3", "llama whose projections are stored together: Phi-3 and Phi-4"),
    _family("mixtral", "llama with a mixture of experts"),
    _family("deepseek_v3", "latent attention, and experts chosen within groups"),
    _family("gpt2", "learned positions, layernorm, gelu, biases"),
    _family("mpt", "alibi, layernorm and no biases"),
]
