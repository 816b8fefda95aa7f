"""An activation and a mutation type, added to Foundry from outside: everything here is public API.

    foundry mutate activation xielu
    foundry mutate heads 8

This module is imported to list and mutate experiments, so it imports neither torch nor numpy.
"""

from foundry.core.contracts import Mutation, Variant, hookimpl
from foundry_plugin_example.heads import change_heads
from foundry_plugin_example.params import XIELUParams

FOUNDRY_API = 1


@hookimpl
def foundry_variants() -> list[Variant]:
    return [
        Variant(
            slot="activation",
            name="xielu",
            target="foundry_plugin_example.xielu:XIELU",
            params=XIELUParams,
            summary="a parabola above 0, an integrated ELU below, both with a trained curvature",
            reference="arXiv:2411.13010",
        )
    ]


@hookimpl
def foundry_mutations() -> list[Mutation]:
    return [
        Mutation(
            type="heads",
            edit=change_heads,
            summary="the number of heads at the same width, with the same share of key-value heads",
            example="2",
        )
    ]
