"""The clock: what is derived is derived within a stated time, or refused.

The limits of expression, gauge and bounded keep SymPy from work that would not come back, and are the same on every
machine.  The clock is the last line behind them: SECONDS of processor time for one call of ``load_sde``,
``load_sampler``, ``derive``, ``emit`` or of a method of LinearSDE and its numeric view, however they are nested;
``limited`` sets another time around them.  In the main thread it is a timer (SIGVTALRM, so that a busy machine changes
nothing), which stops any Python code; in other threads, and where the program has a timer of its own running, it is
looked at between the steps of a derivation only (``check``).
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

from sympy.core.cache import clear_cache

from stepsmith.errors import Unsupported

SECONDS = 60.0
_AGAIN = 0.5  # seconds until the timer rings again, should the first ring be lost in a destructor


class _Spent(BaseException):
    """The time is over; no ``except Exception`` on the way keeps it."""


_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)


@contextmanager
def limited(seconds: float | None = None, what: str = "this") -> Iterator[None]:
    """Unsupported if the body takes longer than ``seconds`` (SECONDS); inside another ``limited`` the outer time holds."""
    if _deadline.get() is not None:
        yield
        return
    seconds = SECONDS if seconds is None else seconds
    token = _deadline.set(time.thread_time() + seconds)
    disarm = _armed(seconds)
    try:
        try:
            yield
        finally:
            disarm()
    except _Spent:
        disarm()
        clear_cache()  # SymPy keeps "unknown" for what it was asked when the timer rang
        hint = "write it with fewer terms and blocks, or allow more time with derive.maths.budget.limited(seconds)"
        raise Unsupported(f"{what} takes longer than {seconds:g} s of processor time", hint) from None
    finally:
        _deadline.reset(token)


def check() -> None:
    """Stop here if the time is over: called between the steps of long work, for threads that no timer reaches."""
    deadline = _deadline.get()
    if deadline is not None and time.thread_time() > deadline:
        raise _Spent


within = partial(limited, None)  # a decorator: the function runs within SECONDS


def _armed(seconds: float) -> Callable[[], None]:
    """Start the timer where that can be done; what stops it and puts back what was there."""
    if (
        threading.current_thread() is not threading.main_thread()
        or not hasattr(signal, "setitimer")
        or signal.getitimer(signal.ITIMER_VIRTUAL) != (0.0, 0.0)
    ):
        return lambda: None

    def ring(*_: Any) -> None:
        raise _Spent

    before = signal.signal(signal.SIGVTALRM, ring)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds, _AGAIN)

    def disarm() -> None:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before if before is not None else signal.SIG_DFL)

    return disarm
