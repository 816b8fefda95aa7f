"""The loop that runs for days: propose, sweep, keep, audit, promote.

space.py       what can be proposed: every variant, shorthand and number that is valid on top of what is kept
stacks.py      stacks of mutations: how one follows from another
proposers.py   slot `proposer`: grid, random, best_of_n, evolutionary
search.py      the loop itself, a pure generator: the provisional lane and its audits
rounds.py      how the proposals of a round are compared with a fresh control
simulate.py    the loop in a world of Gaussian ideas, and the greedy loops that it is measured against
run.py         the loop for real: with a ledger, workers and promotions
"""
