"""Orders: what a step program does to the solution, expanded in the step and held against the exact flow.

series.py     truncated power series over any ring, and expressions evaluated on them
rings.py      exact rationals, and balls where a rational will not do
point.py      one random rational point: parameters, a time, the law of z there, a smooth network
reading.py    the host side of a program as power series around the point
taylor.py     the generic network as a Taylor polynomial; the exact solution; a program run on series
history.py    what a step carries on: zero-stability, and the history that a long run comes to
local.py      the deterministic local error, and the order of a run that follows from it
moments.py    the weak order of a step, by its moments
strong.py     the strong order of a step, by its displacement
leading.py    the leading local error in the variables that suit the family: symbolic.py, conjugate.py, clock.py, prediction.py
"""
