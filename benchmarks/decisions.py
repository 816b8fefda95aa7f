"""How often a sweep decides right, and what that costs: thousands of sweeps without training, through the procedure
that runs for real. Gains in the metric's unit (nats), runs with Gaussian noise.

uv run python benchmarks/decisions.py [null] [bent] [repeated] [planted] [power] [rungs] [--rounds 1000]
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from foundry.lab.decide.conclusion import Conclusion
from foundry.lab.decide.noise import cautious
from foundry.lab.decide.power import smallest_decidable
from foundry.lab.decide.procedure import sweep_procedure
from foundry.lab.decide.request import CONTROL, Contender
from foundry.lab.decide.rule import Rule
from foundry.lab.decide.sequential import SequentialTest
from foundry.lab.decide.simulate import Rates, SimulatedWorld, play, simulate, simulate_null
from foundry.lab.ledger.records import Evidence

SIGMA = 0.005
KNOWN = 30  # degrees of freedom from which sigma is taken at face value
EIGHT_RUNS = 7  # degrees of freedom of `foundry noise --seeds 8`


def null(rounds: int) -> None:
    """False promotions in sweeps of 8 arms that are the baseline itself."""
    print(f"\nnull sweeps, 8 arms, sigma {SIGMA}: false promotions in {rounds} (stated: <= {0.05 * rounds:.0f})")
    for name, df, estimated in (
        ("sigma known", KNOWN, False),
        ("sigma from 8 runs", EIGHT_RUNS, True),
        ("sigma from 3 runs", 2, True),
    ):
        rates = simulate_null(Rule(), SIGMA, df, arms=8, rounds=rounds, estimated=estimated)
        print(
            f"  {name:18} {rates.harmful * rounds:4.0f}   {rates.runs:.1f} runs, {rates.cost:.1f} full budgets a sweep"
        )


@dataclass(frozen=True)
class Bent:
    """One finalist against the baseline, whose noise is normal; the finalist's may be otherwise."""

    name: str
    pair: Callable[[random.Random], float]  # baseline - finalist at one seed; -inf: the finalist failed
    truth: str  # which null holds: its clipped score gains nothing, or its mean; or the gain, where it is better


def _noisy(gain: float, noise: float) -> Callable[[random.Random], float]:
    return lambda draw: draw.gauss(0, SIGMA) + gain - draw.gauss(0, noise * SIGMA)


def _mixed(gain: float, other: float, share: float) -> Callable[[random.Random], float]:
    """As a rule better by `gain`, in a share of the runs by `other`."""
    return lambda draw: draw.gauss(0, SIGMA * 2**0.5) + (other if draw.random() < share else gain)


def _outliers(gain: float) -> Callable[[random.Random], float]:
    def pair(draw: random.Random) -> float:
        runs = [draw.gauss(0, 20 * SIGMA if draw.random() < 0.05 else SIGMA) for _ in range(2)]
        return runs[0] - runs[1] + gain

    return pair


BENT = (
    *(Bent(f"equal, {noise} x the noise", _noisy(0.0, noise), "score and mean") for noise in (1, 2, 3, 5, 10)),
    Bent("equal, heavy tails (Cauchy)", lambda draw: 0.5 * SIGMA * math.tan(math.pi * (draw.random() - 0.5)), "score"),
    Bent("equal, outliers in both, 5 %", _outliers(0.0), "score and mean"),
    Bent("equal, a coin: +- 0.02", lambda draw: draw.choice((-0.02, 0.02)), "score and mean"),
    Bent("equal, 20 % of its runs fail", _mixed(0.0, -math.inf, 0.2), "score"),
    Bent("equal in the mean, skewed", lambda draw: draw.expovariate(1 / 0.01) - 0.01, "mean"),
    Bent("equal in the mean, skewed, down", lambda draw: 0.01 - draw.expovariate(1 / 0.01), "mean"),
    Bent("better by 0.002, worse by 0.1 in 6 %", _mixed(0.002, -0.1, 0.06), "mean"),
    Bent("better by 0.01, worse by 0.5 in 5 %", _mixed(0.01, -0.5, 0.05), "mean"),
    Bent("worse by 0.002", _noisy(-0.002, 1), "score and mean"),
    Bent("worse by 0.01, 3 x the noise", _noisy(-0.01, 3), "score and mean"),
    *(Bent(f"better by {gain}, {noise} x the noise", _noisy(gain, noise), f"+{gain}")
      for gain, noise in ((0.01, 1), (0.01, 2), (0.02, 1), (0.02, 2), (0.02, 3), (0.02, 5), (0.05, 1))),
    Bent("better by 0.02, outliers in both", _outliers(0.02), "+0.02"),
    Bent("better by 0.02, 20 % of its runs fail", _mixed(0.02, -math.inf, 0.2), "no null"),
)  # fmt: skip


def bent(rounds: int, alpha: float = 0.05) -> None:
    """Where noise is not normal, not equal, not complete: what betting promotes, beside the likelihood ratio of before
    and a t test of 8 pairs. Sigma is estimated from 8 runs of the baseline."""
    print(f"\none finalist of two, sigma {SIGMA} from 8 runs, alpha {alpha:g} (each: {alpha / 2:g}), {rounds} rounds")
    print(f"  {'':38}{'null':16}{'betting':>18}{'likelihood ratio':>20}{'t test, 8 pairs':>18}   interval holds")
    for world in BENT:
        draw, promoted, pairs, held = random.Random(0), [0, 0, 0], [0, 0, 0], 0
        median = statistics.median(world.pair(draw) for _ in range(20_001))
        for _ in range(rounds):
            told = math.sqrt(draw.gammavariate(EIGHT_RUNS / 2, 2) / EIGHT_RUNS) * SIGMA
            test = Rule(alpha=alpha).test(told, EIGHT_RUNS)
            differences = [world.pair(draw) for _ in range(test.n_max or 0)]
            end = test.judge(differences)
            held += (end.low is None or end.low <= median) and (end.high is None or median <= end.high)
            ends = [(end.verdict, end.n), _likelihood_ratio(test, differences), _t_test(test, differences[:8])]
            promoted = [count + (verdict == "promote") for count, (verdict, _) in zip(promoted, ends, strict=True)]
            pairs = [count + n for count, (_, n) in zip(pairs, ends, strict=True)]
        rates = [f"{100 * count / rounds:.2f} %{n / rounds:6.1f}" for count, n in zip(promoted, pairs, strict=True)]
        print(
            f"  {world.name:38}{world.truth:16}{rates[0]:>18}{rates[1]:>20}{rates[2]:>18}{100 * held / rounds:12.1f} %"
        )


def _likelihood_ratio(test: SequentialTest, differences: Sequence[float]) -> tuple[str, int]:
    """The rule of before: Wald's, for normal differences of the baseline's spread, or of their own where that is
    larger, and at least three pairs. Who fails has lost."""
    llr = 0.0
    for n, difference in enumerate(differences, 1):
        if difference == -math.inf:
            return "reject", n
        llr += test.delta * (difference - test.delta / 2) / test.sigma_d**2
        own = cautious(statistics.stdev(differences[:n]), n - 1) if n > 1 else 0.0
        if n >= 3 and llr * (test.sigma_d / max(own, test.sigma_d)) ** 2 >= math.log(test.promote_at):
            return "promote", n
        if llr <= math.log(test.beta):
            return "reject", n
    return "inconclusive", len(differences)


def _t_test(test: SequentialTest, differences: Sequence[float]) -> tuple[str, int]:
    """Of a fixed number of pairs, one-sided."""
    if -math.inf in differences:
        return "reject", len(differences)
    spread = statistics.stdev(differences)
    t = statistics.fmean(differences) / spread * math.sqrt(len(differences)) if spread else math.inf
    return "promote" if t >= T_OF_7[test.promote_at] else "reject", len(differences)


T_OF_7 = {40.0: 2.365, 2000.0: 5.408}
"""Quantiles of Student's t with 7 degrees of freedom, by 1 / (chance of error)."""


def repeated(rounds: int) -> None:
    """False promotions of a copy of the baseline that is asked again and again, each time with the noise estimated from
    another 8 runs, until its evidence decides."""
    print(f"\none null arm, asked up to 12 times for 3 pairs each: false promotions in {rounds}")
    for name, kept in (("judged by the terms of its first pair", True), ("by every new estimate", False)):
        print(f"  {name:38} {sum(_repeated(number, kept) for number in range(rounds)):4.0f}")


def _repeated(number: int, terms_kept: bool) -> bool:
    nature, baseline, arm = (
        SimulatedWorld(SIGMA, {}, number=number),
        Contender(CONTROL, CONTROL),
        Contender("arm", "arm"),
    )
    evidence = Evidence(0, baseline.identity, arm.identity, Rule().metric)
    for repeat in range(12):
        told = SimulatedWorld(SIGMA, {}, number=1_000_000 + 12 * number + repeat).told(EIGHT_RUNS)
        known = {(baseline.identity, arm.identity): evidence}
        rule = Rule(n_max=3, finalists=1)
        end = play(sweep_procedure(baseline, [arm], rule, told, EIGHT_RUNS, evidence=known), nature)
        (duel,) = end.arm("arm").duels
        if not end.is_open:
            break
        evidence = replace(evidence, differences=duel.differences, terms=duel.terms if terms_kept else None)
    return end.winner is not None


def planted(rounds: int) -> None:
    """One arm of 8 is better by 0.02."""
    print(f"\na gain of 0.02 in one of 8 arms, sigma {SIGMA}: found in share of {rounds} (bar: 0.95)")
    for name, df, estimated in (("sigma known", KNOWN, False), ("sigma from 8 runs", EIGHT_RUNS, True)):
        rates = simulate(Rule(), df, worlds(0.02, SIGMA, 8, rounds), estimated=estimated)
        print(
            f"  {name:18} {rates.best:.3f}   another promoted {rates.promoted - rates.best:.3f}, {rates.runs:.1f} runs"
        )


def power(rounds: int) -> None:
    """How often a gain is found, by its size and the noise."""
    gains = (0.005, 0.01, 0.02)
    print(f"\npower: one of 8 arms has the gain; share of {rounds} sweeps that promote it; delta = max(0.01, 2 sigma)")
    print(
        "  sigma   " + "".join(f"{gain:>8}" for gain in gains) + "   smallest gain that one finalist's test finds, 80 %"
    )
    for sigma in (0.002, 0.005, 0.01, 0.02):
        found = [simulate(Rule(), KNOWN, worlds(gain, sigma, 8, rounds)).best for gain in gains]
        least = smallest_decidable(Rule().test(sigma, KNOWN), 0.8, math.sqrt(2) * sigma, KNOWN)
        assert least is not None
        print(f"  {sigma:<8}" + "".join(f"{share:8.3f}" for share in found) + f"   {least:.4f}")


def rungs(rounds: int) -> None:
    """What screening on rungs saves and loses, against training every arm with the full budget. Fidelity is the
    correlation of gains with a third of the budget with those with all of it: nobody knows it before measuring."""
    whole = Rule(rungs=(Fraction(1),))
    for arms in (8, 27):
        thirds = Rule(rungs=tuple(Fraction(1, 3**level) for level in ((1, 0) if arms < 12 else (2, 1, 0))))
        print(f"\n{arms} arms, one better by 0.02, sigma {SIGMA}, {rounds} sweeps; against one rung of 1")
        print("                        best arm              same      full budgets      screening cheaper, with")
        print(
            "  rungs       fidelity  finalist  found     winner  screening  in all   cosine  wsd 0.2  wsd 0.1  in all"
        )
        for fidelity in (1.0, 0.95, 0.9, 0.8):
            among = worlds(0.02, SIGMA, arms, rounds, fidelity)
            reference = [sweep(whole, world) for world in among]
            for rule in (whole, Rule(), thirds):
                ends = [sweep(rule, world) for world in among]
                rates, before = Rates.of(ends, among[0].gains), Rates.of(reference, among[0].gains)
                same = sum(a.winner == b.winner for a, b in zip(reference, ends, strict=True)) / rounds
                ratios = [(arms + 2) / float(screening(rule, arms, Fraction(decay))) for decay in ("1", "0.2", "0.1")]
                print(
                    f"  {', '.join(map(str, rule.shares(arms))):12}{fidelity:8}{rates.survived:10.3f}{rates.best:7.3f}"
                    f"{same:11.3f}{rates.screening:11.1f}{rates.cost:8.1f}"
                    f"{ratios[0]:9.2f}{ratios[1]:9.2f}{ratios[2]:9.2f}{before.cost / rates.cost:8.2f}"
                )


def sweep(rule: Rule, world: SimulatedWorld) -> Conclusion:
    contenders = [Contender(arm, arm) for arm in world.gains]
    return play(sweep_procedure(Contender(CONTROL, f"{world.number}"), contenders, rule, SIGMA, KNOWN), world)


def screening(rule: Rule, arms: int, decay: Fraction) -> Fraction:
    """Full budgets for screening where a longer share goes on from the shorter one's undecayed checkpoint: from share a
    to b costs b - a (1 - decay). A decay of 1 is a schedule that has no undecayed part (cosine): b."""
    cost, before, standing = Fraction(0), Fraction(0), arms
    for share in rule.shares(arms):
        cost += (standing + rule.control_seeds) * (share - before * (1 - decay))
        before, standing = share, rule.keep(standing)
    return cost


def worlds(gain: float, sigma: float, arms: int, rounds: int, fidelity: float = 1.0) -> list[SimulatedWorld]:
    """One arm has the gain; the others are as good as the baseline."""
    gains = {f"arm {k}": gain if k == arms // 2 else 0.0 for k in range(arms)}
    return [SimulatedWorld(sigma, gains, fidelity=fidelity, number=number) for number in range(rounds)]


def main() -> None:
    parts = {each.__name__: each for each in (null, bent, repeated, planted, power, rungs)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(parts)}; default: all")
    parser.add_argument("--rounds", type=int, default=1000)
    args = parser.parse_args()
    for name, part in parts.items():
        if not args.parts or name in args.parts:
            part(args.rounds)


if __name__ == "__main__":
    main()
