"""Mutations of the baseline against the baseline: trained in parallel, compared, decided.

question.py   what is asked;  arms.py plan.py  the question made concrete for one baseline
workload.py   which trial each request of a plan is;  dry_run.py  what a sweep would train
lab.py        sweeps from the question to the promotion;  reporter.py  how they tell of it;  result.py  what came of it
null.py       sweeps with nothing to find
"""
