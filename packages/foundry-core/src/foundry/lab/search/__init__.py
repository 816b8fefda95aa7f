"""The search that runs for days: propose, sweep, keep, audit, promote.

space.py       what can be proposed: every variant, shorthand and number that is valid on top of what is kept
proposers.py   slot `proposer`: evolutionary, random, grid, best_of_n;  stacks.py  how stacks of mutations follow
policy.py      the loop itself, a pure generator: the provisional lane and its audits
rounds.py      how the proposals of a round are compared with a fresh control
simulate.py    the loop in a world of Gaussian ideas, and the greedy loops that it is measured against
settings.py    what a search is asked, within which limits, and what came of it
evolve.py      the loop for real: ledger_search.py  with ledger, workers and promotions
               proposed_arms.py ideas.py history.py
"""
