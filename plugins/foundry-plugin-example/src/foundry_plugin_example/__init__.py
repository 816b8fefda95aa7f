"""An activation, a mutation type and a task, added to Foundry from outside: everything here is public API.

    foundry mutate activation xielu
    foundry mutate heads 8
    foundry sweep activation xielu --eval-task "{type: repeat, times: 2}"

This module is imported to list and mutate experiments, so it imports neither torch nor numpy.
"""

from foundry.core.contracts import Metric, Mutation, Variant, hookimpl
from foundry_plugin_example.heads import change_heads
from foundry_plugin_example.params import RepeatParams, XIELUParams

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
        ),
        Variant(
            slot="task",
            name="repeat",
            target="foundry_plugin_example.repeat:Repeat",
            params=RepeatParams,
            summary="to say a made-up word again that the context has",
        ),
    ]


@hookimpl
def foundry_metrics() -> list[Metric]:
    return [
        Metric("bits_saved", "bits per byte", higher_is_better=True, summary="by having seen the same text before"),
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
