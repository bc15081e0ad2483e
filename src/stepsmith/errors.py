"""The two ways in which stepsmith says no: a place in the input that must be mended, and a thing it cannot derive."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input, told in one line: ``<where>: <key>: <what>; <mend>``.

    ``where`` is a file or ``-`` for what came from no file, ``key`` the entry in it, ``mend`` what to do about it.
    """

    def __init__(self, where: str, key: str, what: str, mend: str) -> None:
        self.where, self.key, self.what, self.mend = where, key, what, mend
        super().__init__(f"{where}: {key}: {what}; {mend}")


class Unsupported(Exception):
    """Something that can be written down but not derived (yet): the reason, and what to do instead."""

    def __init__(self, reason: str, hint: str) -> None:
        self.reason, self.hint = reason, hint
        super().__init__(f"{reason}; {hint}")
