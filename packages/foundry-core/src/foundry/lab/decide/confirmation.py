"""The second part of a sweep: is a finalist better than the baseline? Pairs of runs on fresh seeds until that is
decided, and the winner once more at a larger scale where the rule asks for it."""

from __future__ import annotations

from foundry.lab.decide.duel import Duel, difference, scores
from foundry.lab.decide.race import Race, Steps, figures
from foundry.lab.decide.request import Contender, Failure, Request


def confirm(race: Race) -> Steps:
    """Window by window, all finalists abreast. It ends with the window in which one of them qualifies: what is known
    of the others is evidence against a baseline that is about to be replaced."""
    before = len(race.qualified)
    while race.standing and len(race.qualified) == before:
        windows = {each: race.duels[each.arm][0].ahead(race.rule.window) for each in race.standing}
        yield from race.ask([request for pairs in windows.values() for pair in pairs for request in pair])
        for contender, pairs in windows.items():
            race.enter(race.duels[contender.arm][0], pairs)
            if contender in race.standing:
                race.judge(contender)
    race.require_scores()


def outdo(race: Race) -> Steps:
    """Where the control is the baseline at another learning rate, an arm that qualified has to beat the baseline as it
    is, too: that is what it would replace. The rate was chosen by few runs of a part of the budget, and may be worse
    with all of it; then anything would beat it."""
    if race.control is race.baseline:
        return
    for each in list(race.qualified):
        duel = race.duel(race.baseline, each)
        race.duels[each.arm].append(duel)
        while duel.judgement.verdict is None and each.arm not in race.ended:
            pairs = duel.ahead(1)
            yield from race.ask([request for pair in pairs for request in pair])
            race.enter(duel, pairs)
        _settle(race, duel)


def _settle(race: Race, duel: Duel) -> None:
    """What follows for an arm from its duel with the baseline as it is."""
    judgement = duel.judgement
    if judgement.verdict == "promote":
        return
    race.qualified.remove(duel.candidate)
    if judgement.verdict is not None:
        facts = f"better than {race.control.arm}, and not shown to be better than the baseline as it is"
        race.end(duel.candidate, judgement.verdict, f"{facts}: {figures(judgement)}")


def guard(race: Race) -> Steps:
    """Of those that qualified the one with the largest effect wins, if its sign holds at the scale of the guard."""
    for each in sorted(race.qualified, key=lambda each: -(race.duels[each.arm][0].judgement.effect or 0.0)):
        if race.rule.confirm_at:
            yield from _at_scale(race, each)
        if each.arm not in race.ended:
            race.winner = each
            return


def _at_scale(race: Race, contender: Contender) -> Steps:
    """One more pair. Whoever runs a request for a guard scales its experiment as `Rule.scale` says."""
    duel = race.duels[contender.arm][0]
    seed = race.baseline.seed("guard", duel.evidence.pair)
    pair = Request(race.control.arm, seed, "guard"), Request(contender.arm, seed, "guard")
    yield from race.ask(pair)
    failed, seen = race.known[pair[1]], difference(*scores(pair, race.known))
    if isinstance(failed, Failure):
        race.end(contender, "reject", f"its run failed at {race.rule.confirm_at}: {failed.reason}")
    elif seen <= -duel.test.margin:
        facts = f"{seen:+.4f} at {race.rule.confirm_at}"
        race.end(contender, "reject", f"{race.claim(duel)}, but not at the larger scale: {facts}")
