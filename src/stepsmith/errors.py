"""How stepsmith says no: an input that needs a fix, a thing that it cannot derive, and a mistake of its own."""

from __future__ import annotations


def one_line(text: object, most: int = 2000) -> str:
    """A text for one line of a terminal: blanks joined, what does not print (an escape, a newline) as ``?``, cut if long."""
    line = "".join(sign if sign.isprintable() else "?" for sign in " ".join(str(text)[: 4 * most].split()))
    return line if len(line) <= most else f"{line[:most]}..."


class InputError(ValueError):
    """Bad input, reported in one line: ``<where>: <key>: <what>; <fix>``.

    ``where`` is a file, or ``-`` for what came from no file, which the line leaves out; ``key`` is the entry in it; ``what`` is
    wrong with it; ``fix`` says what to do about it.
    """

    def __init__(self, where: str, key: str, what: str, fix: str) -> None:
        self.where, self.key, self.what, self.fix = map(one_line, (where, key, what, fix))
        super().__init__(f"{self.where}: {self.key}: {self.what}; {self.fix}".removeprefix("-: "))

    def __reduce__(self) -> tuple[type, tuple[str, ...]]:
        """So that it can be raised in one process and caught in another."""
        return type(self), (self.where, self.key, self.what, self.fix)


class Unsupported(Exception):
    """Something that can be written down but not derived (yet): the reason, and what to do instead."""

    def __init__(self, reason: str, hint: str) -> None:
        self.reason, self.hint = one_line(reason), one_line(hint)
        super().__init__(f"{self.reason}; {self.hint}")

    def __reduce__(self) -> tuple[type, tuple[str, ...]]:
        return type(self), (self.reason, self.hint)


class CertificateError(Exception):
    """An emitted module is not what was derived: a mistake of stepsmith, never of the user.  Nothing is emitted or written."""

    def __init__(self, module: str, what: str) -> None:
        self.module, self.what = one_line(module), one_line(what)
        super().__init__(f"{self.module}: certificate: {self.what}; this is a fault of stepsmith, please report it")

    def __reduce__(self) -> tuple[type, tuple[str, ...]]:
        return type(self), (self.module, self.what)
