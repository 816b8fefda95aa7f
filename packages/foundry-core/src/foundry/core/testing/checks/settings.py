"""What every variant of every slot must do before it is built."""

import json

import yaml

from foundry.core.contracts.architecture import Family
from foundry.core.testing.case import Case

CHECKS = ("target_resolves", "params_round_trip", "params_are_documented", "params_fit_the_model")
BASIC = "target_resolves"


def target_resolves(case: Case) -> None:
    """The target can be imported and called; that of an architecture is a Family."""
    assert isinstance(case.target, Family) if case.slot == "architecture" else callable(case.target)


def params_round_trip(case: Case) -> None:
    """Settings survive the experiment file and the run folder."""
    plain = case.params.model_dump(mode="json")
    for written in (yaml.safe_load(yaml.safe_dump(plain)), json.loads(json.dumps(plain))):
        again = type(case.params).model_validate(written)
        assert again == case.params, f"{case.params!r} comes back as {again!r}"


def params_are_documented(case: Case) -> None:
    """Every setting has a description: it becomes `--help` and the editor's tooltip."""
    missing = [name for name, field in type(case.params).model_fields.items() if not field.description]
    assert not missing, f"no description: {', '.join(missing)}"


def params_fit_the_model(case: Case) -> None:
    """The settings under test are possible in a model of the tested sizes."""
    problems = list(case.params.problems(case.dims))
    assert not problems, problems
