"""The conformance kit finds mistakes in objectives and tasks, and says of other slots that it does not try them."""

import itertools
import json
from typing import ClassVar

import pytest
import torch
from torch import nn

from foundry.cli.__main__ import main
from foundry.core.contracts import Item, Params, TaskParams, Variant
from foundry.core.testing import Case, Conformance
from foundry.core.testing.checks import checks_of
from foundry.core.training.objective import NextToken


class TestBuiltIns(Conformance):
    dist = "foundry-core"


class StaysNear(nn.Module):
    """A good one: cross-entropy, and the squared distance to the logits of the model as the training began."""

    def __init__(self, params, context):
        super().__init__()
        self.context, self.reference = context, context.reference()

    def forward(self, model, batch):
        with torch.no_grad():
            expected = self.context.forward(self.reference, batch)

        def read(hidden, head, aux):
            total, count, of_loss = self.context.loss(hidden, head, batch)
            distance = (head(hidden) - expected).square().mean(-1)
            distance = distance if batch.loss_weight is None else distance * batch.loss_weight
            return total + distance.sum(), count, {**aux, **of_loss}

        return self.context.forward(model, batch, read)


class Writes(nn.Module):
    """A good one: it trains on what the model writes, drawn from each row's own seed."""

    def __init__(self, params, context):
        super().__init__()
        self.context = context

    def seeds(self, rows):
        return rows.sum(1).tolist()

    def forward(self, model, batch):
        written = self.context.generate(batch.tokens[:, :4], 6, seeds=self.seeds(batch.tokens))

        def read(hidden, head, aux):
            rows = batch._replace(targets=written[:, 1:], loss_weight=None)
            return self.context.loss(hidden, head, rows)

        return model(written[:, :-1], read=read)[0]


class KnowsNoField(NextToken):
    def forward(self, model, batch):
        return model(batch.ids)


class GivesNoCount(NextToken):
    def forward(self, model, batch):
        total, _, aux = super().forward(model, batch)
        return total, aux


class GivesTheMean(NextToken):
    def forward(self, model, batch):
        total, count, aux = super().forward(model, batch)
        return total / count, count, aux


class ForgetsWhatItMayBeWithout(NextToken):
    def forward(self, model, batch):
        total, count, aux = super().forward(model, batch)
        return total * batch.loss_weight.max(), count, aux


class TrainsNothing(NextToken):
    def forward(self, model, batch):
        total, count, aux = super().forward(model, batch)
        return total.detach(), count, aux


class TrainsNothingWithoutASign(NextToken):
    def forward(self, model, batch):
        total, count, aux = super().forward(model, batch)
        return total * 0, count, aux


class ForgetsDocuments(NextToken):
    def forward(self, model, batch):
        return super().forward(model, batch._replace(segments=None))


class ForgetsWhereTheReferenceReads(StaysNear):
    def forward(self, model, batch):
        self.reference(batch.tokens)
        return super().forward(model, batch)


class DrawsByTheBatch(Writes):
    def seeds(self, rows):
        return [int(rows.sum()) + row for row in range(len(rows))]


class DrawsWithTorchsGenerator(NextToken):
    def forward(self, model, batch):
        total, count, aux = super().forward(model, batch)
        return total * torch.rand(()), count, aux


class CountsItsSteps(NextToken):
    steps = 0

    def forward(self, model, batch):
        self.steps += 1
        total, count, aux = super().forward(model, batch)
        return total / self.steps, count, aux


class NoModule:
    def __init__(self, params, context): ...


class TwoMetrics(TaskParams):
    metrics: ClassVar = ("accuracy", "bits_per_byte")


class Asks:
    """A good one."""

    digest = "of a file"

    def __init__(self, params):
        self.words = ("hen", "there", "rather")

    def run(self, handle):
        assert handle.tokenizer.decode(handle.tokenizer.encode("hen")) == "hen"
        assert handle.block_size > 1
        probe = handle.train({"training.max_iters": 3})
        scores = probe.score([("the ", word) for word in self.words])
        for word, (nats, exact) in zip(self.words, scores, strict=True):
            (said,) = handle.generate([f"the {word}"], max_tokens=5, stop=["\n"])
            yield Item(word, {"accuracy": float(exact), "bits_per_byte": -nats}, details={"said": said})


class HasNoItem(Asks):
    def run(self, handle):
        return []


class RepeatsAnId(Asks):
    def run(self, handle):
        yield from super().run(handle)
        yield from super().run(handle)


class LacksAMetric(Asks):
    def run(self, handle):
        yield Item("hen", {"accuracy": 1.0})


class IsNoNumber(Asks):
    def run(self, handle):
        yield Item("hen", {"accuracy": 1.0, "bits_per_byte": float("nan")})


class AsksForASettingThatIsNone(Asks):
    def run(self, handle):
        handle.train({"training.steps_or_so": 3})
        return super().run(handle)


class HasNoDigest(Asks):
    digest = None


class HasANewDigest(Asks):
    count = itertools.count()

    @property
    def digest(self):
        return str(next(self.count))


class Remembers(Asks):
    runs = 0

    def run(self, handle):
        self.runs += 1
        yield Item("hen", {"accuracy": 1.0, "bits_per_byte": float(self.runs)})


class AsksByTheAnswer(Asks):
    def run(self, handle):
        return sorted(super().run(handle), key=lambda item: item.details["said"])


def case_of(target):
    slot, params = ("task", TwoMetrics) if issubclass(target, Asks) else ("objective", Params)
    return Case(target.__name__, Variant(slot, "mine", f"{__name__}:{target.__name__}", params), params())


@pytest.mark.parametrize("target", [StaysNear, Writes, Asks])
def test_what_keeps_its_promises_passes(target):
    for _, check in checks_of(case_of(target)):
        check(case_of(target))


@pytest.mark.parametrize(
    ("target", "expected", "words"),
    [
        (KnowsNoField, "sum_count_and_aux", "no attribute 'ids'"),
        (GivesNoCount, "sum_count_and_aux", r"answers a tuple of a tensor .*promises is \(sum, count, aux\)"),
        (ForgetsWhatItMayBeWithout, "sum_count_and_aux", "NoneType"),
        (TrainsNothing, "sum_count_and_aux", "comes of no call of the model"),
        (NoModule, "sum_count_and_aux", "NoModule is no nn.Module"),
        (TrainsNothingWithoutASign, "gradients", "the gradient of every weight is 0"),
        (ForgetsDocuments, "tells_the_model_of_its_tokens", "without its segments"),
        (ForgetsWhereTheReferenceReads, "tells_the_model_of_its_tokens", "positions and segments and is_token"),
        (GivesTheMean, "micro_batches_add_up", "the sum of two halves"),
        (DrawsByTheBatch, "micro_batches_add_up", "the sum of two halves"),
        (DrawsWithTorchsGenerator, "follows_from_rows_and_weights", "asked again, it gives another the sum"),
        (CountsItsSteps, "follows_from_rows_and_weights", "asked again"),
        (HasNoItem, "items_are_scored", "has no item"),
        (RepeatsAnId, "items_are_scored", "two items of the id 'hen'"),
        (LacksAMetric, "items_are_scored", "exactly the metrics|gives accuracy"),
        (IsNoNumber, "items_are_scored", "bits_per_byte of item 'hen' is nan"),
        (AsksForASettingThatIsNone, "items_are_scored", "steps_or_so"),
        (HasNoDigest, "digest_is_fixed", "has to be a text"),
        (HasANewDigest, "digest_is_fixed", "the digest is '0', and then '1'"),
        (Remembers, "runs_alike", "run again, it gives other items to the same model, from 'hen' on"),
        (AsksByTheAnswer, "asks_every_model_the_same", "in another order"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_mistake_fails_its_check(target, expected, words):
    case = case_of(target)
    with pytest.raises(Exception, match=words):
        dict(checks_of(case))[expected](case)


OBJECTIVE = """
from torch import nn

from foundry.core.contracts import Params, Variant


class Mean(nn.Module):
    def __init__(self, params, context):
        super().__init__()

    def forward(self, model, batch):
        logits, _ = model(batch.tokens)
        return logits.mean()  # and no count


class Trainer:
    def __init__(self, params, site): ...


VARIANTS = [
    Variant("objective", "mean", f"{__name__}:Mean", Params, "of all logits"),
    Variant("executor", "nobody", f"{__name__}:Trainer", Params, "trains nothing"),
]
"""


def test_plugins_check_tells_one_fault_and_what_it_did_not_try(tmp_path, monkeypatch, capsys):
    (tmp_path / "variants").mkdir()
    (tmp_path / "variants" / "means.py").write_text(OBJECTIVE)
    monkeypatch.chdir(tmp_path)
    assert main(["plugins", "check", "variants/means.py", "--json"]) == 4
    checks = json.loads(capsys.readouterr().out)["checks"]
    (fault,) = [row for row in checks if row["fault"]]
    assert (fault["contribution"], fault["check"]) == ("objective mean", "sum_count_and_aux")
    assert fault["place"].startswith("variants/means.py:")
    assert "answers a tensor ()" in fault["fault"]
    notes = {row["contribution"]: row["note"] for row in checks if row["check"] == "conforms"}
    assert notes == {"executor nobody": "not tried: there are no conformance tests for this slot"}
