"""The intermediate representation, and nothing that makes it.

hosts.py     what a grid needs evaluated once, on the host: Scalar, Integral, Law, Flow, Moments, Propagate, Spread
program.py   one step as a straight-line program on tensors: Evaluate, Normal, Update
forms.py     every value as a linear form in the state, the draws, the outputs and what is carried: the columns of the table
passes.py    programs to programs of the same law
rows.py      the programs of a grid's first rows, common rows and last rows
"""

from ..maths.calculus import EARLIER
from .hosts import Flow, Host, Integral, Law, Moments, Propagate, Scalar, Spread, applied, entries, entry, table_of
from .program import ONE, UNIT, Evaluate, Normal, Op, ProgramError, StepProgram, Update, dump, verify

__all__ = [
    "EARLIER", "ONE", "UNIT", "Evaluate", "Flow", "Host", "Integral", "Law", "Moments", "Normal", "Op", "ProgramError",
    "Propagate", "Scalar", "Spread", "StepProgram", "Update", "applied", "dump", "entries", "entry", "table_of", "verify",
]  # fmt: skip
