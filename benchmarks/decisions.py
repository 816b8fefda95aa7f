"""How often a sweep decides right, and what that costs: thousands of sweeps without training, through the procedure
that runs for real. Gains in the metric's unit (nats), runs with Gaussian noise.

uv run python benchmarks/decisions.py [null] [noisier] [repeated] [planted] [power] [rungs] [interval] [--rounds 1000]
"""

from __future__ import annotations

import argparse
import random
from dataclasses import replace
from fractions import Fraction

from foundry.lab.decide.conclusion import Conclusion
from foundry.lab.decide.power import smallest_decidable
from foundry.lab.decide.procedure import null_procedure, sweep_procedure
from foundry.lab.decide.request import CONTROL, Contender
from foundry.lab.decide.rule import Rule
from foundry.lab.decide.sequential import Judgement, SequentialTest
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
    trusting = [_trusting(number) for number in range(rounds)]
    print(f"  {'... at face value':18} {sum(trusting):4.0f}   of 8 runs, without the caution of noise.inflation")


def _trusting(number: int) -> bool:
    """Does a null sweep promote, whose sigma comes from 8 runs and is taken for the true one?"""
    world = SimulatedWorld(SIGMA, {}, number=number)
    told = world.told(EIGHT_RUNS)
    return play(null_procedure(CONTROL, 8, Rule(), told, KNOWN, round=number), world).winner is not None


def noisier(rounds: int) -> None:
    """False promotions of candidates that are as good as the baseline and have more noise, which nobody knows; and what
    the caution costs those that are better."""
    print(f"\none finalist, its noise a multiple of the baseline's {SIGMA}: promoted of {10 * rounds} (stated: <= 5 %)")
    draw, test = random.Random(0), Rule(finalists=1).test(SIGMA, KNOWN)
    trusting = replace(test, least=1)

    def share(gain: float, factor: float) -> list[str]:
        ends: dict[SequentialTest, list[Judgement]] = {test: [], trusting: []}
        for _ in range(10 * rounds):
            pairs = [draw.gauss(gain, SIGMA) - draw.gauss(0, factor * SIGMA) for _ in range(Rule().n_max)]
            for each, judged in ends.items():
                judged.append(each.judge(pairs))
        promoted = [sum(end.verdict == "promote" for end in judged) / len(judged) for judged in ends.values()]
        used = [sum(end.n for end in judged) / len(judged) for judged in ends.values()]
        return [f"{rate:8.4f} {n:6.1f}" for rate, n in zip(promoted, used, strict=True)]

    print("  noise   gain   promoted  pairs   where sigma is trusted, and one pair may do")
    for gain, factor in ((0.0, 1), (0.0, 2), (0.0, 3), (0.0, 5), (0.0, 10), (0.01, 1), (0.02, 1), (0.04, 1)):
        ours, theirs = share(gain, factor)
        print(f"  {factor:5} {gain:6} {ours}          {theirs}")


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
        least = smallest_decidable(Rule().test(sigma, KNOWN))
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


def interval(rounds: int) -> None:
    """Does the interval hold the truth, printed when the test stops? And how much does the effect overstate?"""
    test = Rule().test(SIGMA, KNOWN)
    draw = random.Random(0)
    print(
        f"\n{10 * rounds} tests, sigma {SIGMA}, when they stop: the {test.confidence:.0%} interval, the mean difference"
    )
    print("  true gain   interval holds it   fixed-n interval would   promoted   mean difference where promoted")
    for gain in (-0.005, 0.0, 0.005, 0.01, 0.02):
        held = naive = 0
        effects = []
        for _ in range(10 * rounds):
            end = test.judge([draw.gauss(gain, test.sigma_d) for _ in range(Rule().n_max)])
            held += end.low <= gain <= end.high
            naive += abs(end.effect - gain) <= 1.96 * test.sigma_d / end.n**0.5
            if end.verdict == "promote":
                effects.append(end.effect)
        mean = f"{sum(effects) / len(effects):+.4f}" if effects else "-"
        share = [count / (10 * rounds) for count in (held, naive, len(effects))]
        print(f"  {gain:+9.3f} {share[0]:19.4f} {share[1]:24.4f} {share[2]:10.4f}   {mean}")


def worlds(gain: float, sigma: float, arms: int, rounds: int, fidelity: float = 1.0) -> list[SimulatedWorld]:
    """One arm has the gain; the others are as good as the baseline."""
    gains = {f"arm {k}": gain if k == arms // 2 else 0.0 for k in range(arms)}
    return [SimulatedWorld(sigma, gains, fidelity=fidelity, number=number) for number in range(rounds)]


def main() -> None:
    parts = {each.__name__: each for each in (null, noisier, repeated, planted, power, rungs, interval)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(parts)}; default: all")
    parser.add_argument("--rounds", type=int, default=1000)
    args = parser.parse_args()
    for name, part in parts.items():
        if not args.parts or name in args.parts:
            part(args.rounds)


if __name__ == "__main__":
    main()
