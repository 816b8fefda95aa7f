"""Tasks in the experiment file and on the command line, and what is made of the items that they give."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from types import ModuleType
from typing import ClassVar

import numpy
import pytest
import yaml

from foundry.core.code import code_fingerprint
from foundry.core.config import from_plain
from foundry.core.config.json_schema import json_schema
from foundry.core.config.write_yaml import to_yaml
from foundry.core.contracts import (
    InvalidData,
    InvalidExperiment,
    Item,
    Metric,
    PluginError,
    Shorthand,
    TaskParams,
    UsageError,
    Variant,
)
from foundry.core.registry import Registry, registry
from foundry.core.registry.discovery import Plugin
from foundry.core.tasks import evaluate, task_asked, task_digest


class RecallParams(TaskParams):
    metrics: ClassVar = ("bits_per_byte", "hits")
    pairs: int = 4


class Recall:
    digest = ""

    def __init__(self, params):
        self.params = params

    def run(self, handle):
        return handle(self.params)


module = ModuleType("a_plugin_with_tasks")
module.Recall, module.RecallParams = Recall, RecallParams
CONTRIBUTIONS = (
    Metric("hits", "hits", higher_is_better=True),
    Variant("task", "recall", "a_plugin_with_tasks:Recall", RecallParams, summary="of a test"),
    Shorthand("task", "recall_9", {"type": "recall", "pairs": 9}),
)


@pytest.fixture(scope="module")
def known() -> Registry:
    sys.modules[module.__name__] = module
    return Registry([*registry().plugins, Plugin("foundry-plugin-tasks", "1", "tasks", module.__name__, CONTRIBUTIONS)])


def experiment(known: Registry, tasks: object):
    return from_plain({"eval": {"tasks": tasks}}, registry=known)


def test_a_task_has_a_name_and_settings_and_changes_no_training(known):
    plain = from_plain({}, registry=known)
    made = experiment(known, {"recall": None, "hard": {"type": "recall", "pairs": 16}, "nine": "recall_9"})
    assert {name: task.pairs for name, task in made.eval.tasks.items()} == {"recall": 4, "hard": 16, "nine": 9}
    assert made.identity == plain.identity
    assert code_fingerprint(made) == code_fingerprint(plain) != code_fingerprint(plain, ("recall",))
    again = from_plain(yaml.safe_load(to_yaml(made)), registry=known)
    assert again.eval.tasks == made.eval.tasks
    assert from_plain(made.plain(), registry=known).eval.tasks == made.eval.tasks


@pytest.mark.parametrize(
    ("tasks", "fault"),
    [
        ({"hard": {"pairs": 16}}, "eval.tasks.hard: there is no task hard; say which it is"),
        ({"recall": {"pairs": "many"}}, "eval.tasks.recall.pairs: "),
        ({"recall": {"peirs": 3}}, "eval.tasks.recall.peirs: "),
        ({"recall": "recal"}, "eval.tasks.recall: task has no variant 'recal'"),
        (["recall"], "eval.tasks: "),
        ({"a.b": "recall"}, "eval.tasks.a.b: "),
    ],
)
def test_what_is_wrong_with_a_task_is_said_where_it_stands(known, tasks, fault):
    with pytest.raises(InvalidExperiment) as caught:
        experiment(known, tasks)
    assert fault in caught.value.message


def test_editors_know_tasks(known):
    tasks = json_schema(known)["$defs"]["eval"]["properties"]["tasks"]
    assert (tasks["type"], tasks["description"]) == ("object", known.slots["task"].summary)
    assert "recall_9" in str(tasks["additionalProperties"])


def test_a_command_asks_for_a_task_of_the_experiment_or_for_any(known):
    made = experiment(known, {"recall": {"pairs": 2}, "hard": {"type": "recall", "pairs": 16}})
    asked = {text: task_asked(made, text) for text in ("recall", "hard", "recall_9", "{type: recall, pairs: 3}")}
    assert [(task.name, task.type, task.params.pairs) for task in asked.values()] == [
        ("recall", "recall", 2),
        ("hard", "recall", 16),
        ("recall_9", "recall", 9),
        ("recall", "recall", 3),
    ]
    assert asked["hard"].metrics == ["hard.bits_per_byte", "hard.hits"]
    for text, error in {
        "recal": UsageError,
        "{pairs: 3}": UsageError,
        "{type: recall, pairs: x}": InvalidExperiment,
    }.items():
        with pytest.raises(error):
            task_asked(made, text)


def test_the_score_is_the_mean_over_items(known):
    made = experiment(known, {"recall": {"pairs": 3}})
    items = [Item(str(n), {"hits": float(n), "bits_per_byte": 0.5}) for n in range(3)]
    score = evaluate(lambda params: items[: params.pairs], made, task_asked(made, "recall"))
    assert score.means == {"recall.bits_per_byte": 0.5, "recall.hits": 1.0}
    assert score.items == tuple(items)


@pytest.mark.parametrize(
    ("items", "error", "words"),
    [
        ([], InvalidData, "has no item"),
        ([Item("a", {"hits": 1.0})], PluginError, "exactly the metrics"),
        ([Item("a", {"hits": float("nan"), "bits_per_byte": 1.0})], PluginError, "hits of item 'a' is nan"),
        ([Item("a", {"hits": 1.0, "bits_per_byte": 1.0})] * 2, InvalidData, "two items of the id 'a'"),
        ([Item("a", {"hits": 1.0, "bits_per_byte": 1.0}, details={"said": {1}})], PluginError, "details of item 'a'"),
    ],
)
def test_items_that_make_no_score_are_refused(known, items, error, words):
    made = from_plain({}, registry=known)
    with pytest.raises(error, match=words):
        evaluate(lambda params: items, made, task_asked(made, "recall"))


def test_scores_are_kept_as_numbers_that_json_has(known):
    made = from_plain({}, registry=known)
    item = Item("a", {"hits": numpy.float32(0.5), "bits_per_byte": numpy.float64(1)}, details={"said": "x"})
    [kept] = evaluate(lambda params: [item], made, task_asked(made, "recall")).items
    assert json.loads(json.dumps(asdict(kept)))["scores"] == {"hits": 0.5, "bits_per_byte": 1.0}


ODD = """
from foundry.core.contracts import Item, Metric, TaskParams, Variant

class Odd:
    def __init__(self, params): ...
    def run(self, handle):
        return [ITEM]
    DIGEST

VARIANTS = [Variant("task", "odd", f"{__name__}:Odd", TaskParams, "of a test")]
"""
RIGHT = 'Item("a", {"accuracy": 1.0})'


@pytest.mark.parametrize(
    ("item", "digest", "words"),
    [
        (RIGHT, "", "no attribute 'digest'"),
        (RIGHT, "digest = 7", "its digest is 7"),
        ("'a'", "digest = ''", "no attribute 'scores'"),
        ('Item("a", {"accuracy": "high"})', "digest = ''", "could not convert string to float: 'high'"),
    ],
)
def test_a_task_that_is_none_is_told_with_its_file(tmp_path, item, digest, words):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "variants").mkdir()
    (tmp_path / "variants" / "odd.py").write_text(ODD.replace("ITEM", item).replace("DIGEST", digest))
    made = from_plain({}, project=tmp_path)
    task = task_asked(made, "odd")
    with pytest.raises(PluginError, match=words) as caught:
        evaluate(task_digest(made, task), made, task)  # whatever the model: it is not looked at
    assert "variants/odd.py" in caught.value.message


@pytest.mark.parametrize("aliases", [{"pairs": "pairs"}, {"training.pairs": "peirs"}])
def test_an_alias_leads_to_a_setting_of_its_own(aliases):
    wrong = type("Wrong", (TaskParams,), {"__annotations__": {"aliases": ClassVar}, "aliases": aliases})
    variant = Variant("task", "wrong", "a_plugin_with_tasks:Recall", wrong)
    made = Registry([*registry().plugins, Plugin("foundry-plugin-odd", "1", "odd", module.__name__, (variant,))])
    assert "its alias" in made.problems[-1].message


def test_a_task_gives_metrics_that_somebody_has_told_the_meaning_of(known):
    class Odd(TaskParams):
        metrics: ClassVar = ("beauty",)

    odd = Variant("task", "odd", "a_plugin_with_tasks:Recall", Odd)
    made = Registry([*registry().plugins, Plugin("foundry-plugin-odd", "1", "odd", module.__name__, (odd,))])
    assert "beauty" in made.problems[-1].message
    assert known.metric("recall.hits").higher_is_better
    assert not known.metric("val_loss").higher_is_better
    assert known.metric("gone.thing") is None
