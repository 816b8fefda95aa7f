"""Asks a proposer for the next ideas, and tells it what there is to choose from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from random import Random

from foundry.core.blame import FAULTS, answers_for, described
from foundry.core.contracts import FoundryError, PluginError, Proposer, Space, Stack
from foundry.core.digest import digest
from foundry.core.registry import registry
from foundry.lab.search.policy import Search
from foundry.lab.search.proposed_arms import Ground
from foundry.lab.search.settings import SearchSettings
from foundry.lab.search.space import values_on
from foundry.lab.search.stacks import stack_of


class Ideas:
    """The proposer of one search.

    Raises UsageError where there is none of that name.
    """

    def __init__(
        self, project: Path, settings: SearchSettings, note: Callable[[str], None] = lambda text: None
    ) -> None:
        variant = registry(project).variant("proposer", settings.proposer)
        self.settings, self.note = settings, cache(note)  # each remark once
        target = variant.load()
        with answers_for(target):
            self.proposer: Proposer = target(variant.params())
        self._values: dict[str, Mapping[str, Sequence[str]]] = {}  # by identity: it takes a second to find out

    def of(self, search: Search, ground: Ground, step: int) -> list[Stack]:
        """For a step: a function of the search's seed, the step and what was tried.

        Raises:
            PluginError: the proposer fails, or returns anything but stacks of mutations.
        """
        space = Space(search.origin, search.current, self.values(search.current, ground), self.values((), ground))
        random = Random(int(digest("propose", self.settings.seed, step)[:15], 16))
        try:
            with answers_for(self.proposer):
                ideas = self.proposer.propose(space, tuple(search.history), self.settings.policy.proposals, random)
                return [stack_of(idea) for idea in ideas]
        except FoundryError:
            raise
        except FAULTS as error:
            raise PluginError(f"proposer {self.settings.proposer} failed: {described(error)}") from error

    def values(self, stack: Stack, ground: Ground) -> Mapping[str, Sequence[str]]:
        """What can be proposed on top of a stack."""
        experiment, _ = ground.build(stack)
        if experiment.identity not in self._values:
            self._values[experiment.identity] = values_on(experiment, self.settings.rule.metric, self.note)
        return self._values[experiment.identity]
