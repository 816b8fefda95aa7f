"""What came of a sweep, as its caller gets it and as the ledger keeps it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from foundry.core.digest import digest
from foundry.lab.decide.conclusion import ArmConclusion, Conclusion
from foundry.lab.decide.noise import pooled
from foundry.lab.ledger.records import Decision, Evidence, Generation, Noise
from foundry.lab.sweep.arms import Refused
from foundry.lab.sweep.plan import Plan, noise_context


@dataclass(frozen=True)
class SweepResult:
    """What came of a sweep."""

    sweep: str
    plan: Plan
    conclusion: Conclusion
    decisions: tuple[Decision, ...]  # of the arms, in their order
    refused: tuple[Refused, ...]
    promoted: Generation | None = None

    def ranked(self) -> list[ArmConclusion]:
        """The arms, best first: the winner, then by the effect on fresh seeds, then by how far they came in screening,
        and by the difference there."""
        return sorted(self.conclusion.arms, key=self._rank, reverse=True)

    def _rank(self, arm: ArmConclusion) -> tuple[bool, float, float, float]:
        effect = arm.judgement.effect if arm.judgement else None
        last = arm.screening[-1] if arm.screening else None
        return (
            arm.arm == self.conclusion.winner,
            effect if effect is not None else float("-inf"),
            float(last.share) if last else 0.0,
            last.difference if last else float("-inf"),
        )

    def to_json(self) -> dict[str, Any]:
        """One document with everything about the sweep."""
        rule, end = self.plan.question.rule, self.conclusion
        return {
            "sweep": self.sweep,
            "generation": self.plan.generation,
            "metric": rule.metric,
            "sigma": self.plan.sigma,
            "df": self.plan.df,
            "delta": rule.gain(self.plan.sigma) if self.plan.sigma is not None else None,
            "winner": end.winner,
            "control": end.control,
            "arms": [self._arm(arm) for arm in self.ranked()],
            "refused": [asdict(each) for each in self.refused],
            "error_rate": end.error_rate,
            "trials": end.runs,
            "budgets": float(end.cost),
            "promoted": None
            if self.promoted is None
            else {"generation": self.promoted.number, "identity": self.promoted.identity},
        }

    def _told(self, score: float | None) -> float | None:
        return None if score is None else self.plan.told(score)

    def _arm(self, arm: ArmConclusion) -> dict[str, Any]:
        entry, judged = self.plan.entry(arm.arm), arm.judgement
        decision = next((each for each in self.decisions if each.arm == arm.arm), None)
        return {
            "arm": arm.arm,
            "decision": decision.id if decision else None,
            "verdict": arm.verdict,
            "reason": arm.reason,
            "sigma": arm.duels[0].terms.sigma if arm.duels else None,
            "delta": arm.duels[0].terms.delta if arm.duels else None,
            "effect": judged.effect if judged else None,
            "low": judged.low if judged else None,
            "high": judged.high if judged else None,
            "confidence": judged.confidence if judged else None,
            "llr": judged.llr if judged else None,
            "pairs": judged.n if judged else 0,
            "loss": self._told(arm.loss),
            "baseline_loss": self._told(arm.control_loss),
            "screening": [
                {"share": str(seen.share), "mean": self._told(seen.mean), "runs": seen.n, "difference": seen.difference}
                for seen in arm.screening
            ],
            "identity": entry.identity,
            "mutations": [list(mutation) for mutation in entry.mutations],
            "changes": list(entry.changes),
            "budget": entry.budget,
            "flops": entry.flops,
            "costs": dict(entry.costs),
        }


def decisions_of(sweep: str, plan: Plan, conclusion: Conclusion) -> Iterator[Decision]:
    """One per arm. Their ids depend on the sweep alone, so that to conclude it again writes nothing twice."""
    sets = f"; with {', '.join(plan.question.sets)}" if plan.question.sets else ""
    for arm in conclusion.arms:
        judged = arm.judgement
        yield Decision(
            id=digest(sweep, arm.arm)[:16],
            sweep=sweep,
            generation=plan.generation,
            candidate=plan.entry(arm.arm).identity,
            arm=arm.arm,
            metric=plan.question.rule.metric,
            verdict=arm.verdict,
            reason=arm.reason + sets,
            effect=judged.effect if judged else None,
            low=judged.low if judged else None,
            high=judged.high if judged else None,
            llr=judged.llr if judged else None,
            n=judged.n if judged else 0,
            rule=plan.question.rule.to_json(),
            sigma=arm.duels[0].terms.sigma if arm.duels else plan.sigma,
            created=0.0,  # the ledger's clock says
            confidence=judged.confidence if judged else None,
        )


def evidence_of(plan: Plan, conclusion: Conclusion) -> Iterator[Evidence]:
    """What is known of each pair by now."""
    metric = plan.question.rule.metric
    for arm in conclusion.arms:
        for duel in arm.duels:
            control, candidate = plan.entry(duel.control), plan.entry(arm.arm)
            pair = (plan.generation, control.identity, candidate.identity, metric)
            yield Evidence(*pair, duel.differences, plan.basis(control, candidate), duel.terms)


def noise_of(plan: Plan, conclusion: Conclusion) -> Iterator[Noise]:
    """The control's runs on each rung measure the noise there, too."""
    control, metric = plan.entry(conclusion.control), plan.question.rule.metric
    for share, scores in conclusion.controls.items():
        if len(scores) > 1:
            sigma, df = pooled([scores])
            context = noise_context(metric, control.identity, plan.judged_on, Fraction(share))
            yield Noise(metric, context, sigma, df, len(scores), group=f"control {control.identity} {share}")
