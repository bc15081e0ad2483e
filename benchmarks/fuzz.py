"""A search for what nobody thought of: random diffusions with symbolic parameters, random samplers, each a module or a refusal.

    python benchmarks/fuzz.py LOG [--count N] [--first SEED] [--slopes]

A case is a function of its seed.  It is derived, emitted and certified, and with --slopes its proven order is held to the
measured one.  LOG takes a JSON object a line and a case, with the largest ``error`` of its certificate relative to what is
allowed; seeds that stand in it are not run again.  What comes out:

    module     certified, its order proven (and measured)
    refused    InputError or Unsupported, counted by reason
    wrong      the certificate refuses the text, or the measured slope is under the proven order
    raw        any other exception

Every number in a diffusion is a parameter, or a rational of one digit beside one.  Half have lets, some of which cancel; half
have two blocks or more; in a fifth F(t) does not commute with itself; a quarter have an offset.  Samplers come from every family.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

LONG = 120  # characters of a text in the log
CLOCKS = ("1 + {p}*t", "{p} + t^2", "exp(-{p}*t)", "2 + sin(3*t)", "{p} + 1/(1 + t)", "beta")
AMOUNTS = ("{p}", "{p} + {q}", "{p}*{q}", "{p}/(1 + {q})", "({p} + {q})/2", "{p}^2 + {q}/3", "sqrt({p})", "exp({p}) - {q}/9", "1")
LETS = ("{p} + {q}", "2*{p} - {q}/4", "{p}*{q} + 1", "exp({p}/2)")


class Draw:
    """The choices of one case."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.lets: dict[str, str] = {}
        self.names = "abcde"[: self.rng.randint(2, 5)]

    def one(self, choices: Any) -> Any:
        return self.rng.choice(choices)

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def filled(self, forms: Any) -> str:
        p, q = self.rng.sample(self.names, 2)
        return str(self.one(forms)).format(p=p, q=q)

    def amount(self) -> str:
        """A positive number of parameters, some of them by way of a let that cancels."""
        if "u" in self.lets and self.chance(0.4):
            return self.one(("u", "u/2", "(u + 1)", "(2*u - u)"))
        if "both" in self.lets and self.chance(0.3):
            return f"(both - {self.lets['both'].split(' + ')[1]})"  # the let cancels
        return f"({self.filled(AMOUNTS)})"


def diffusion(draw: Draw) -> dict[str, Any]:
    """A stable diffusion of one to four blocks in the words of a spec."""
    n = 1 if draw.chance(0.5) else draw.one((2, 2, 2, 3, 3, 4))
    params = {name: round(draw.rng.uniform(0.3, 1.8), 2) for name in draw.names}
    if draw.chance(0.5):
        draw.lets = {"u": draw.filled(LETS), "both": draw.filled(("{p} + {q}",)), "beta": draw.filled(("{p} + t*{q}",))}
    clocks = CLOCKS if draw.lets else CLOCKS[:-1]
    same = f"({draw.filled(clocks)})" if draw.chance(0.6) else "1"
    turning = n > 1 and draw.chance(0.4)
    clock = (lambda: f"({draw.filled(clocks)})") if turning else (lambda: same)
    F = [["0"] * n for _ in range(n)]
    for i in range(n):
        F[i][i] = f"-{draw.amount()}*{clock()}" if i == n - 1 or draw.chance(0.7) else "0"
        if i:
            F[i - 1][i], F[i][i - 1] = f"{draw.amount()}*{clock()}", f"-{draw.amount()}*{clock()}"
    first = 0 if n == 1 or draw.chance(0.5) else draw.rng.randint(1, n - 1)  # the noise reaches the blocks from here on
    G = [[f"sqrt({draw.amount()}*{clock()})" if i == first + k else "0" for k in range(n - first)] for i in range(n)]
    state = list("xmvw"[:n])
    spec = {
        "name": "drawn", "state": state, "params": params, "let": draw.lets, "F": F, "G": G,
        "initial": {name: draw.amount() for name in state[1:]}, "constraints": [f"{name} > 0" for name in params],
    }  # fmt: skip
    if draw.chance(0.25):
        spec["constant"] = ["mu"]
        spec["offset"] = [f"{draw.amount()}*mu - {draw.amount()}*t" if i == 0 or draw.chance(0.5) else "0" for i in range(n)]
    return spec


ANY = ("euler", "euler-maruyama", "conjugate", "conjugate-identity", "heun-drift", "oso", "sscs", "E! E!^@1", "S! A", "A S! A")
ONE = ("ddim", "dpmpp-2m", "dpmpp-3m", "unipc-2", "deis-2", "heun", "sde-dpmpp-2m", "sa-solver", "ddim-eta", "dpmpp-2s")
TWO = ("rvv", "roba", "noba", "nse", "nvv", "rse", "obab", "baoab", "robab", "rvv2", "conjugate-se", "conjugate-vv")
SHARES = ("1/3", "2/7", "1/5", "3/4")


LINES = {"heun-drift", "rvv2", *ONE}


def sampler(draw: Draw, n: int, offset: bool) -> Any:
    """A sampler of the catalogue that fits the blocks, or one of its own in parts or in lines; lines know no offset."""
    own = (_exact, _kicks, _matrix, _noisy, *(() if offset else (_stages, _steps)))
    names = [name for name in (*ANY, *((ONE, TWO)[n > 1])) if not (offset and name in LINES)]
    return draw.one(own)(draw, n) if draw.chance(0.5) else draw.one(names)


def _exact(draw: Draw, n: int) -> dict[str, Any]:
    a = draw.one(SHARES)
    b = 1 - Fraction(a)
    target = draw.one(("ode", "sde"))
    noise = {"noise": "all"} if target == "sde" else {}
    parts = {"O": {"linear": "diagonal", "solve": "exact", **noise}, "S": {"score": "all", "linear": "rest", "solve": "euler"}}
    line = draw.one((f"O({a}) S!@{a} O({b})", f"S!({a}) O S!@1({b})", "O S!", f"S!({a}) O S!^@1({b})"))
    return {"name": "own", "family": "splitting", "target": target, "composition": line, "parts": parts}


def _kicks(draw: Draw, n: int) -> dict[str, Any]:
    a = draw.one(SHARES)
    line = draw.one((f"E!({a}) E!@{a}({1 - Fraction(a)})", f"E!({a}) E!^@1({1 - Fraction(a)})", "E! E!^@1/2"))
    part = {"E": {"linear": "rest", "score": "all", "solve": draw.one(("euler", "euler", "conjugate"))}}
    own = {"B": draw.one(("0", "lam", "lam*t"))} if part["E"]["solve"] == "conjugate" else {}
    part["E"] |= own
    given = {"params": {"lam": 0.5}} if own else {}
    return {"name": "own", "family": "conjugate-splitting" if own else "splitting", "target": "ode", "composition": line,
            "parts": part, **given}  # fmt: skip


def _stages(draw: Draw, n: int) -> dict[str, Any]:
    """Runge-Kutta of two stages at t0 - q h: order 2 unless the weight is off."""
    q = draw.one(("1/2", "2/3", "1", "3/4"))
    weight = f"1/(2*{q})" if draw.chance(0.8) else "1/3"
    step = ["s = score(z, t0)", "f = drift(z, s, t0)", f"y = z + {q}*h*f", f"r = score(y, t0 - {q}*h)",
            f"z = z + h*((1 - {weight})*f + {weight}*drift(y, r, t0 - {q}*h))"]  # fmt: skip
    return {"name": "own", "family": "runge-kutta", "target": "ode", "step": step, "let": {"h": "t0 - t1"}}


def _steps(draw: Draw, n: int) -> dict[str, Any]:
    """Adams-Bashforth of two steps on any grid, with a weight that may be off and a start that may be poor."""
    half = draw.one(("1/2", "1/2", "1/3"))
    f = ["s = score(z, t0)", "f = drift(z, s, t0)"]
    start = [*f, "z = z + h*f"]
    if draw.chance(0.5):
        start = [*f, "y = z + h*f", "q = score(y, t1)", "z = z + h/2*(f + drift(y, q, t1))"]
    step = [*f, f"z = z + h*((1 + {half}*h/hp)*f - {half}*h/hp*f[-1])"]
    return {"name": "own", "family": "multistep", "target": "ode", "step": step, "warmup": [start],
            "let": {"h": "t0 - t1", "hp": "t_m1 - t0"}}  # fmt: skip


def _matrix(draw: Draw, n: int) -> dict[str, Any]:
    B: Any = draw.one(("lam", "lam*t", "lam^2"))
    if n > 1 and draw.chance(0.5):
        B = [[draw.one(("0", "lam", "lam*t", "-lam")) for _ in range(n)] for _ in range(n)]
    return {"name": "own", "family": "conjugate", "target": "ode", "B": B, "params": {"lam": 0.4}}


def _noisy(draw: Draw, n: int) -> dict[str, Any]:
    """Euler-Maruyama in two parts of any shares."""
    a = draw.one(SHARES)
    parts = {"E": {"linear": "rest", "score": "all", "noise": "all", "solve": "euler"}}
    line = f"E!({a}) E!@{a}({1 - Fraction(a)})"
    return {"name": "own", "family": "splitting", "target": "sde", "composition": line, "parts": parts}


def network(draw: Draw, n: int) -> str:
    return str(draw.one(("denoiser", "denoiser", "eps-L", "score", "x0", *(("v",) if n == 1 else ("eps-U",)))))


def case(seed: int) -> tuple[dict[str, Any], Any, str]:
    """(diffusion, sampler, network) of a seed."""
    draw = Draw(seed)
    spec = diffusion(draw)
    n = len(spec["state"])
    return spec, sampler(draw, n, "offset" in spec), network(draw, n)


def run(seed: int, slopes: bool = False) -> dict[str, Any]:
    """What becomes of a case, as plain values."""
    import stepsmith as ss
    from stepsmith.measure.orders import compare

    spec, chosen, net = case(seed)
    begun = time.process_time()
    facts: dict[str, Any] = {"seed": seed, "blocks": len(spec["state"]), "lets": bool(spec["let"]), "network": net,
                             "sampler": chosen if isinstance(chosen, str) else chosen["family"]}  # fmt: skip
    try:
        sde = ss.load_sde(spec)
        facts |= {"commutes": sde.commutes(), "offset": "offset" in spec}
        method = ss.derive(sde, chosen, net)
        checks, text = ss.certify(method).checks, ss.emit(method)
        facts |= {"order": method.order, "weak": method.weak_order, "what": "module",
                  "errors": {check.claim: check.error for check in checks},
                  "error": round(max(check.error / check.limit for check in checks), 4)}  # fmt: skip
        if slopes:
            try:
                found = compare(method, ss.load(text))
            except ArithmeticError as error:  # the measurement interpolates the law, which may be nearly singular
                return {**facts, "decided": False, "why": str(error), "seconds": round(time.process_time() - begun, 2)}
            facts |= {"slope": round(found.measured, 3), "decided": found.converged}
            if found.converged and found.proven is not None and not found.measured >= found.proven - 0.1:
                facts |= {"what": "wrong", "why": f"measured {found.measured:.3f}, proven {found.proven}"}
    except (ss.InputError, ss.Unsupported) as refusal:
        facts |= {"what": "refused", "why": reason(refusal), "message": str(refusal)}
    except ss.CertificateError as fault:
        facts |= {"what": "wrong", "why": fault.what}
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        facts |= {"what": "raw", "why": f"{type(error).__name__}: {error}", "place": f"{Path(at.filename).name}:{at.lineno}"}
    return {**facts, "seconds": round(time.process_time() - begun, 2)}


def brief(facts: dict[str, Any]) -> dict[str, Any]:
    """What the log keeps of a case."""
    kept = {name: value for name, value in facts.items() if name not in ("errors", "message")}
    return kept | ({"why": kept["why"][:LONG]} if "why" in kept else {})


def reason(refusal: Any) -> str:
    """A refusal without its names and numbers."""
    said = refusal.reason if hasattr(refusal, "reason") else f"{refusal.key}: {refusal.what}"
    return re.sub(r"\d+(\.\d+)?(e-?\d+)?", "#", said.replace("drawn", "the diffusion"))[:LONG]


def table(found: Iterable[dict[str, Any]]) -> Iterator[str]:
    """What came out, and the refusals by reason."""
    found = list(found)
    what = Counter(one["what"] for one in found)
    yield f"{len(found)} cases: " + ", ".join(f"{count} {name}" for name, count in what.most_common())
    undecided = sum(not one.get("decided", True) for one in found)
    if any("slope" in one for one in found):
        yield f"{sum('slope' in one for one in found)} slopes measured, {undecided} undecided"
    for why, count in Counter(f"{one['what']}: {one['why']}" for one in found if one["what"] != "module").most_common():
        yield f"{count:5} {why}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("log", type=Path)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--slopes", action="store_true", help="measure orders too, some seconds a case")
    given = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    lines = given.log.read_text().splitlines() if given.log.exists() else []
    known = {one["seed"]: one for one in map(json.loads, lines)}
    given.log.parent.mkdir(parents=True, exist_ok=True)
    wanted = range(given.first, given.first + given.count)
    with given.log.open("a") as log:
        for seed in wanted:
            if seed not in known:
                known[seed] = run(seed, given.slopes)
                log.write(json.dumps(brief(known[seed])) + "\n")
                log.flush()
    print("\n".join(table(known[seed] for seed in wanted)))


if __name__ == "__main__":
    main()
