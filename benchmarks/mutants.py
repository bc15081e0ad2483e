"""Mutants: small faults planted in derive, templates and runtime, each of which the tests must see.

    python benchmarks/mutants.py LOG [--count N] [--only TEXT]

The faults are those of mutations.py, drawn with a fixed seed, room by room and operator by operator in turn.  Beside them
stand four faults that an earlier review planted and no test saw.  Each is written alone into a copy of the tree, where a process
forked from this one runs the tests of its room until the first fails: the certificates of diffusions that no catalogue holds
come first.  SECONDS of processor time end a process, which counts as killed by time.

LOG takes a JSON object a line and a mutant; what stands in it is not run again, but for the survivors.  A survivor is a test that
is missing, or it changes nothing that can be seen: a person who has looked writes ``"equivalent": why`` into its line.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import shlex
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mutations import ROOT, Mutant, drawn, survivors_of_old

WANTED = 84
SECONDS = 100  # of processor time, for a suite that takes under 60 without a mutant
FOLDERS = ("src", "derive", "templates", "runtime", "generated", "measure", "tests", "docs", "benchmarks", "examples")
COPIED = (*FOLDERS, "pyproject.toml", "README.md")

CERTIFICATES = "test_certificate.py -k 'leaves_with and (exact or noise or predictor or midpoint or own)'"
OTHERS = "test_certificate.py -k 'not planted and not exact and not noise and not predictor and not midpoint and not own'"
TEXTS = "test_generated.py -k 'byte_for_byte and (vp or psld_rvv or psld_conjugate)'"
ORDERS = ("test_printed.py", "test_orders.py -k 'not search_finds'")
LINES = "test_lines.py -k 'not no_line'"
SPLIT = "test_split.py -k 'not any_text'"
# The longest beginning of a file's path decides; each a file of tests and pytest's words.
SUITES: dict[str, tuple[str, ...]] = {
    "derive/maths": ("test_hard_sdes.py -k 'law or van_loan'", "test_kernel.py", "test_numeric.py"),
    "derive/sde": ("test_hard_sdes.py -k 'law or van_loan'", "test_kernel.py", "test_numeric.py"),
    "derive/maths/budget": ("test_budget.py",),
    "derive/maths/notation": ("test_notation.py -k spelled",),
    "derive/proofs": (OTHERS, "test_kernel.py"),
    "derive/spec": (
        "test_front_door.py -k 'not unicode and not grammars'",
        "test_front_door_specs.py -k 'not random'",
        SPLIT,
        LINES,
    ),
    "derive/sampler": (SPLIT, LINES),
    "derive/sampler/network": (TEXTS, "test_frames.py", "test_lines.py -k takes_the_same_steps"),
    "derive/lower": ("test_frames.py", LINES),
    "derive/lower/conjugate": ("test_conjugate.py -k consistent", "test_conjugate.py -k 'not consistent'"),
    "derive/lower/lines": (LINES,),
    "derive/lower/frames": ("test_frames.py", "test_adams.py -k every_network"),
    "derive/lower/adams": ("test_adams_noise.py", "test_adams.py -k 'not slope and not hold and not one_function and not names'"),
    "derive/program": ("test_passes.py", LINES),
    "derive/orders": ORDERS,
    "derive/orders/stability": ("test_stability.py", *ORDERS),
    "derive/orders/clock": ("test_adams.py", *ORDERS),
    "derive/orders/trial": ("test_orders.py -k search_finds",),
    "derive/": ("test_printed.py", SPLIT),
    "templates/": (OTHERS, "test_passes.py", TEXTS),
    "templates/dialects": ("test_k_diffusion.py", "test_hosts.py"),
    "templates/hosts": ("test_k_diffusion.py", "test_hosts.py"),
    "templates/hosts/trained": ("test_diffusers.py -k 'not process and not snippet'",),
    "templates/hosts/replay": ("test_diffusers.py -k 'not process and not snippet'",),
    "templates/hosts/diffusers": ("test_diffusers.py -k 'not process and not snippet'",),
    "templates/files": ("test_files.py", "test_front_door_runs.py"),
    "templates/torch": ("test_offset.py", "test_adams.py -k 'not slope'", OTHERS, "test_blurring.py"),
    "runtime/": ("test_printed.py -k run_starts", "test_loop.py", "test_noise.py", "test_watch.py"),
    "runtime/start": ("test_printed.py -k run_starts", "test_begin.py", "test_offset.py"),
    "runtime/networks": ("test_networks.py", "test_watch.py", "test_begin.py"),
    "runtime/networks/onnx_model": ("test_onnx.py",),
    "runtime/networks/unet": ("test_networks.py", "test_train.py -k 'exact or comes_back'"),
    "runtime/inversion": ("test_begin.py",),
    "runtime/data": ("test_train.py -k 'reads or images or none'", "test_offset.py"),
    "runtime/grid": ("test_grid.py",),
    "runtime/roots": ("test_grid.py",),
    "runtime/plan": ("test_printed.py -k run_starts", "test_front_door_runs.py", "test_loop.py", "test_offset.py"),
    "runtime/output": ("test_output.py",),
    "runtime/density": ("test_density.py",),
    "runtime/constants": ("test_offset.py",),
    "runtime/modules": ("test_front_door_runs.py", "test_loop.py"),
    "runtime/spectral": ("test_blurring.py",),
    "runtime/cache": ("test_cache.py",),
}

# -- a run -----------------------------------------------------------------------------------------------------------------


def suite_of(file: str) -> tuple[str, ...]:
    """The tests of a file, the certificates first."""
    return CERTIFICATES, *SUITES[max((start for start in SUITES if file.startswith(start)), key=len)]


class First:
    """A plugin of pytest: the first test that fails is written down."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and not self.path.exists():
            self.path.write_text(report.nodeid.removeprefix("tests/"))


def forked(work: Callable[[], int]) -> tuple[int, float]:
    """(exit status, seconds of processor time) of a function in a process of its own; minus a signal where one ended it."""
    begun = resource.getrusage(resource.RUSAGE_CHILDREN)
    if not (pid := os.fork()):
        status = 70
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
            status = work()
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return os.waitstatus_to_exitcode(status), ended.ru_utime - begun.ru_utime


def tested(tree: Path, suite: Sequence[str], first: Path) -> int:
    """pytest's exit status of a suite in a copy of the tree; runs in a forked process."""
    import pytest

    log = os.open(tree / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(tree)
    os.environ |= {"STEPSMITH_CACHE": str(tree / "cache"), "PYTHONPATH": str(tree / "src")}
    sys.path.insert(0, str(tree / "src"))
    sys.dont_write_bytecode = True
    try:
        import stepsmith
    except Exception:
        first.write_text("import stepsmith")
        return 1
    if not str(stepsmith.__file__).startswith(str(tree)):
        raise SystemExit(f"{stepsmith.__file__} is not the copy under test")
    for one in suite:
        file, *words = shlex.split(one)
        status = pytest.main(
            ["-xq", "-p", "no:cacheprovider", "--tb=line", f"tests/{file}", *words], plugins=[First(first)]
        )
        if status:
            return int(status)
    return 0


def fate_of(tree: Path, mutant: Mutant | None, suite: Sequence[str]) -> dict[str, Any]:
    """What becomes of a mutant (None: of the tree as it is) in its copy, which is put back."""
    first = tree / "first.txt"
    first.unlink(missing_ok=True)
    where = tree / (mutant.file if mutant else "pyproject.toml")
    kept, times = where.read_bytes(), where.stat()
    if mutant:
        where.write_bytes(mutant.planted(kept))
    try:
        status, seconds = forked(lambda: tested(tree, suite, first))
    finally:
        where.write_bytes(kept)
        os.utime(where, ns=(times.st_atime_ns, times.st_mtime_ns))
    fate = "survived" if status == 0 else "time" if status == -signal.SIGKILL else "killed"
    by = first.read_text() if first.exists() else "" if fate != "killed" else f"status {status}"
    return {"fate": fate, "by": by, "seconds": round(seconds, 1)}


def copied(folder: str) -> Path:
    tree = Path(folder)
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, symlinks=True)
        else:
            shutil.copy2(source, tree / name)
    return tree


# -- the record ------------------------------------------------------------------------------------------------------------


def table(mutants: Sequence[Mutant], known: dict[str, dict[str, Any]]) -> Iterator[str]:
    """A row a room, then the mutants that survived."""
    yield "| room | mutants | by a test | by time | equivalent | survived |"
    yield "|---|---|---|---|---|---|"
    rows: dict[str, Counter[str]] = {}
    for mutant in mutants:
        found = known[mutant.key]
        rows.setdefault(mutant.room, Counter())["equivalent" if "equivalent" in found else found["fate"]] += 1
    for room, row in (*rows.items(), ("all", sum(rows.values(), Counter()))):
        counts = (row.total(), row["killed"], row["time"], row["equivalent"], row["survived"])
        yield f"| {room} | " + " | ".join(map(str, counts)) + " |"
    for mutant in mutants:
        if known[mutant.key]["fate"] == "survived":
            yield f"{mutant.operator}: {mutant.key}: {known[mutant.key].get('equivalent', 'SURVIVED')}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("log", type=Path)
    parser.add_argument("--count", type=int, default=WANTED, help="mutants drawn, beside the named ones")
    parser.add_argument("--only", default="", help="mutants whose file or key holds this text")
    given = parser.parse_args()
    lines = given.log.read_text().splitlines() if given.log.exists() else []
    known = {one["key"]: one for one in map(json.loads, lines)}
    draw = drawn()
    mutants = [*survivors_of_old(), *(next(draw) for _ in range(given.count))]
    mutants = [mutant for mutant in mutants if given.only in mutant.key]
    for name in ("diffusers", "flint", "hypothesis", "pytest", "scipy.linalg", "sympy", "torch"):  # once, before the forks
        importlib.import_module(name)
    sys.modules["torch"].set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, given.log.open("a") as log:
        tree = copied(folder)
        for mutant in mutants:
            if mutant.key in known and (known[mutant.key]["fate"] != "survived" or "equivalent" in known[mutant.key]):
                continue
            fate = fate_of(tree, mutant, suite_of(mutant.file))
            known[mutant.key] = {"key": mutant.key, "operator": mutant.operator, "line": mutant.line, **fate}
            print(
                f"{fate['seconds']:5.1f} s {fate['fate']:8} {mutant.operator:10} {mutant.key}  [{fate['by']}]",
                flush=True,
            )
            log.write(json.dumps(known[mutant.key]) + "\n")
            log.flush()
        survived = {suite_of(mutant.file) for mutant in mutants if known[mutant.key]["fate"] == "survived"}
        for suite in sorted(
            {suite_of(mutant.file) for mutant in mutants} - survived
        ):  # has it passed, then, without a mutant?
            clean = fate_of(tree, None, suite)
            print(f"{clean['seconds']:5.1f} s without a mutant: {', '.join(suite)}", flush=True)
            if clean["fate"] != "survived":
                raise SystemExit(f"without a mutant {clean['by'] or 'the time'} ends {suite}")
    print("\n".join(table(mutants, known)))


if __name__ == "__main__":
    main()
