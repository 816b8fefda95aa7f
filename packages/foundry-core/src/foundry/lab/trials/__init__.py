"""From a procedure's requests to trainings, and back.

driver.py       answers a procedure from the ledger and the workers
fingerprint.py  what a training depends on: a trial's name;  budget.py  how long each arm trains
warm_start.py   a longer schedule goes on from a shorter one
executors/      who starts workers;  worker.py  what one does;  heartbeat.py  by which it shows that it lives;  log.py
failure.py      whom a failure blames
"""
