"""The second part of a sweep: is a finalist better than the baseline? Pairs of runs on fresh seeds until that is
decided, and the winner once more at a larger scale where the rule asks for it."""

from __future__ import annotations

from foundry.core.ledger.records import Evidence
from foundry.core.sweep.race import Contender, Race, Steps, figures, of_budget
from foundry.core.sweep.request import Failure, Request


def confirm(race: Race) -> Steps:
    """Window by window, all finalists abreast. It ends with the window in which one of them qualifies: what is known
    of the others is evidence against a baseline that is about to be replaced."""
    before = len(race.qualified)
    while race.standing and len(race.qualified) == before:
        windows = {each: _window(race, each) for each in race.standing}
        yield from race.ask([request for pairs in windows.values() for pair in pairs for request in pair])
        for contender, pairs in windows.items():
            _enter(race, contender, pairs)


def _window(race: Race, contender: Contender) -> list[tuple[Request, Request]]:
    """The next pairs: (the control's run, the contender's run), on the pair's next unused seeds."""
    done, end = len(race.differences[contender.arm]), len(race.earlier(contender)) + race.rule.n_max
    pair = race.pair(contender)
    runs = []
    for i in range(done, min(done + race.rule.window, end)):
        seed = contender.seed("confirm", pair.pair, i) if contender.own_seeds else pair.seed(i)
        runs.append((Request(race.control.arm, pair.seed(i), "confirm"), Request(contender.arm, seed, "confirm")))
    return runs


def _enter(race: Race, contender: Contender, pairs: list[tuple[Request, Request]]) -> None:
    """The pairs, in the order of their seeds, up to the decision."""
    for control, candidate in pairs:
        baseline, outcome = race.control_score(control), race.known[candidate]
        if isinstance(outcome, Failure):
            return race.end(contender, "reject", f"its run failed {of_budget(candidate.share)}: {outcome.reason}")
        race.pairs.setdefault(contender.arm, []).append((baseline, outcome))
        race.differences[contender.arm].append(baseline - outcome)
        race.judge(contender)
        if contender not in race.standing:
            return None


def outdo(race: Race) -> Steps:
    """Where the control is the baseline at another learning rate, whoever qualified has to beat the baseline as it is,
    too: that is what it would replace. The rate was chosen by few runs of a part of the budget, and may be worse with
    all of it; then anything would beat it."""
    if race.control is race.baseline:
        return
    for each in list(race.qualified):
        pair, test = Evidence(0, race.baseline.identity, each.identity, race.rule.metric), race.test(each)
        differences: list[float] = []
        while (judgement := test.judge(differences)).verdict is None:
            seed = pair.seed(len(differences))
            control, candidate = (Request(arm, seed, "confirm") for arm in (race.baseline.arm, each.arm))
            yield from race.ask([control, candidate])
            baseline, outcome = race.control_score(control), race.known[candidate]
            if isinstance(outcome, Failure):
                race.end(each, "reject", f"its run failed {of_budget(candidate.share)}: {outcome.reason}")
                break
            differences.append(baseline - outcome)
        if judgement.verdict != "promote":
            race.qualified.remove(each)
        if judgement.verdict in ("reject", "inconclusive"):
            facts = f"better than {race.control.arm}, and not shown to be better than the baseline as it is"
            race.end(each, judgement.verdict, f"{facts}: {figures(judgement)}")


def guard(race: Race) -> Steps:
    """Of those that qualified the one with the largest effect wins, if its sign holds at the scale of the guard."""
    for each in sorted(race.qualified, key=lambda each: -(race.judged[each.arm].effect or 0.0)):
        if race.rule.confirm_at:
            yield from _at_scale(race, each)
        if each.arm not in race.ended:
            race.winner = each
            return


def _at_scale(race: Race, contender: Contender) -> Steps:
    """One more pair. Whoever runs a request for a guard scales its experiment as `Rule.scale` says."""
    seed = race.baseline.seed("guard", race.pair(contender).pair)
    control, candidate = Request(race.control.arm, seed, "guard"), Request(contender.arm, seed, "guard")
    yield from race.ask([control, candidate])
    baseline, outcome = race.control_score(control), race.known[candidate]
    if isinstance(outcome, Failure):
        race.end(contender, "reject", f"its run failed at {race.rule.confirm_at}: {outcome.reason}")
    elif baseline - outcome <= -race.test(contender).margin:
        facts = f"{baseline - outcome:+.4f} at {race.rule.confirm_at}"
        race.end(contender, "reject", f"{race.claim(contender)}, but not at the larger scale: {facts}")
