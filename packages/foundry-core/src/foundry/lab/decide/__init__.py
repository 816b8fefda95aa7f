"""What follows from noisy runs. Pure: no files, no clock, no chance but that of a simulation's seed.

request.py     what passes between a procedure and what trains for it
procedure.py   a sweep from its first request to its conclusion: race.py screening.py confirmation.py
comparison.py  which of two experiments is better
duel.py        one arm against one control, in pairs of runs;  conclusion.py  how a sweep ended
rule.py        by which rule;  sequential.py  the test;  noise.py  how much seeds differ;  power.py  what can be decided
simulate.py    answers a procedure with random numbers of which the truth is known
"""
