"""From a procedure's requests to trainings, and back.

driver.py       answers a procedure from the ledger and the workers
setting.py      what all of them compute on;  budget.py  how long each arm trains
fingerprint.py  what a training depends on: a trial's name
warm_start.py   a longer schedule goes on from a shorter one
executors/      what starts workers;  worker.py  what one does;  log.py
heartbeat.py    by which a worker shows that it lives;  time_limit.py  which ends it
failure.py      whom a failure blames
"""
