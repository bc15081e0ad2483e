"""The clock behind the limits: endless work ends as Unsupported, and nothing of the timer stays behind."""

from __future__ import annotations

import itertools
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import stepsmith as ss
from stepsmith.derive.maths import budget
from stepsmith.errors import Unsupported


def endless() -> None:
    """Work without an end; ten seconds of it, should the clock not ring."""
    end = time.process_time() + 10
    while time.process_time() < end:
        try:
            while time.process_time() < end:
                pass
        except Exception:  # what catches everything on the way does not catch the clock
            continue


def test_endless_work_in_the_main_thread_is_stopped_by_the_timer() -> None:
    before = signal.getsignal(signal.SIGVTALRM)
    with pytest.raises(Unsupported, match=r"the work takes longer than 0\.2 s"), budget.limited(0.2, "the work"):
        endless()
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0) and signal.getsignal(signal.SIGVTALRM) is before


def test_in_other_threads_the_time_is_looked_at_between_steps() -> None:
    told: list[str] = []

    def work() -> None:
        try:
            with budget.limited(0.05, "the work"):
                while True:
                    budget.check()
        except Unsupported as error:
            told.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert told and "the work takes longer" in told[0]


@contextmanager
def alarm_after(calls: int) -> Iterator[None]:
    """The timer's signal at the call of a function of that number: the same place on any machine."""
    left = itertools.count(calls, -1)

    def count(frame: Any, event: str, arg: Any) -> None:
        if event == "call" and next(left) == 0:
            signal.raise_signal(signal.SIGVTALRM)

    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(None)


def test_a_derivation_out_of_time_is_unsupported_and_the_next_one_is_as_ever() -> None:
    text = ss.emit(ss.derive("cld", "baoab"))
    for calls in (100, 1_000, 10_000):
        with pytest.raises(Unsupported, match="takes longer than 60 s"), alarm_after(calls):
            ss.derive("hold", "B! A! " * 32)
        assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)
    assert ss.emit(ss.derive("cld", "baoab")) == text


def test_the_outer_time_holds() -> None:
    with budget.limited(60, "all"), budget.limited(0.001, "a part"):
        sum(range(10**6))
        budget.check()
    budget.check()


def test_a_timer_of_the_program_is_left_alone() -> None:
    rings: list[int] = []
    before = signal.signal(signal.SIGVTALRM, lambda *_: rings.append(1))
    signal.setitimer(signal.ITIMER_VIRTUAL, 1000)
    try:
        with budget.limited(5, "the work"):
            left = signal.getitimer(signal.ITIMER_VIRTUAL)[0]
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
    assert 900 < left < 1001 and not rings
