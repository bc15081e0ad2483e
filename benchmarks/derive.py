"""A cold ``stepsmith derive SDE`` in a fresh process: seconds by the clock, processor seconds, and the peak of memory.

    python benchmarks/derive.py [--json] [SDE ...]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from typing import Any

TARGETS = {"psld": 5.0, "hold": 20.0}  # seconds


def cold(sde: str) -> dict[str, Any]:
    """One run of the command in a process of its own; ru_maxrss is in KiB on Linux and in bytes on macOS."""
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "stepsmith", "derive", sde], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"stepsmith derive {sde} failed with status {os.waitstatus_to_exitcode(status)}")
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "sde": sde,
        "seconds": time.perf_counter() - begun,
        "processor": usage.ru_utime + usage.ru_stime,
        "peak_mib": usage.ru_maxrss * unit / 2**20,
        "target": TARGETS.get(sde),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sdes", nargs="*", default=list(TARGETS))
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    found = [cold(sde) for sde in given.sdes]
    if given.json:
        print(json.dumps({"runs": found}, indent=2))
        return
    print(f"{'SDE':20} {'seconds':>8} {'processor':>10} {'peak MiB':>9} {'target s':>9}")
    for one in found:
        target = f"{one['target']:9.0f}" if one["target"] else "        -"
        print(f"{one['sde']:20} {one['seconds']:8.2f} {one['processor']:10.2f} {one['peak_mib']:9.0f} {target}")


if __name__ == "__main__":
    main()
