"""Who learns of a signal. Real signals, to this process or to one that is forked for it."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from foundry.core.system.signals import RESERVED, Interrupt, StopRequest, heeded

processes = multiprocessing.get_context("fork")


@pytest.mark.parametrize("number", heeded(), ids=lambda number: number.name)
def test_what_is_around_learns_of_a_signal_that_came_inside(number):
    before = signal.getsignal(number)
    with StopRequest() as sweep:
        with StopRequest() as training:
            os.kill(os.getpid(), number)
            assert training.requested
        assert sweep.requested
        with StopRequest() as later:
            assert (later.requested, later.name) == (True, number.name)
    assert sweep.name == training.name == number.name
    assert signal.getsignal(number) is before


def test_who_is_asked_alone_is_asked_with_all_that_is_inside_and_nothing_around():
    with StopRequest() as sweep, StopRequest() as trial, StopRequest() as training:
        trial.ask()
        assert [each.requested for each in (sweep, trial, training)] == [False, True, True]
        assert not training.name


def insist() -> None:
    with StopRequest():
        with StopRequest():
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
    os._exit(0)


def test_the_second_signal_ends_the_process_though_the_first_came_inside():
    child = processes.Process(target=insist)
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGTERM


def interrupted(said) -> None:
    interrupt = Interrupt()
    for number in (signal.SIGTERM, *RESERVED):
        with StopRequest() as stop:
            os.kill(os.getpid(), number)
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt:
            said.put((stop.name, interrupt.came))


def test_a_process_that_leaves_at_once_is_stopped_at_a_step_where_it_trains():
    said = processes.Queue()
    child = processes.Process(target=interrupted, args=(said,))
    child.start()
    assert [said.get(timeout=60) for _ in range(4)] == [(each.name, True) for each in (signal.SIGTERM, *RESERVED)]
    child.join(60)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell who catches a signal")
def test_a_handler_that_python_does_not_know_of_stays(tmp_path):
    with open(tmp_path / "stacks", "w+") as file:
        faulthandler.register(signal.SIGUSR1, file=file)
        try:
            assert signal.SIGUSR1 not in heeded()
            with StopRequest() as stop:
                os.kill(os.getpid(), signal.SIGUSR1)
                assert not stop.requested
        finally:
            faulthandler.unregister(signal.SIGUSR1)
    assert "test_signals.py" in (tmp_path / "stacks").read_text()
    assert signal.SIGUSR1 in heeded()
