"""What every schedule must do."""

from foundry.core.testing.case import Case

CHECKS = ("factors_are_shares_of_the_peak", "is_a_pure_function", "warms_up", "survives_any_budget")
STEPS = 200


def curve(case: Case, steps: int = STEPS) -> list[float]:
    schedule = case.build()
    return [schedule(step, step / steps) for step in range(steps)]


def factors_are_shares_of_the_peak(case: Case) -> None:
    """Every factor is in [0, 1], and the peak is reached: the learning rate in the experiment is the highest used."""
    factors = curve(case)
    assert min(factors) >= 0
    assert 0.99 <= max(factors) <= 1


def is_a_pure_function(case: Case) -> None:
    """The same step gives the same factor, whatever was asked before: a resumed run goes on as if never stopped."""
    schedule = case.build()
    backwards = [schedule(step, step / STEPS) for step in reversed(range(STEPS))]
    assert backwards[::-1] == curve(case)


def warms_up(case: Case) -> None:
    """With a setting `warmup`, the factor rises from above 0 during so many steps."""
    warmup = getattr(case.params, "warmup", 0)
    factors = curve(case)
    assert factors[0] > 0
    assert factors[: warmup + 1] == sorted(factors[: warmup + 1])


def survives_any_budget(case: Case) -> None:
    """Budgets of one step, of seconds that run out during the warm-up, or of none at all give no error."""
    schedule = case.build()
    for step in (0, 1, 19, 20, 21, 10_000):
        for progress in (0.0, 0.5, 1.0):
            assert 0 <= schedule(step, progress) <= 1
