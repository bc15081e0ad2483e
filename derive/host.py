"""The host functions of an emitted module: what a diffusion needs evaluated in float64 before the first step.

Each function below returns a ``Function``, or a tuple of them, with its expressions; how it is written down is the
template's business.  All of it is said in quantities that keep their digits near the data.  With Psi the transition and
z_0 the state pulled back to the start of the span,

    Psi(0, t) z_t = z_0 + noise,   N_t = Cov(noise) = Sigma_0 + int_0^t Psi(0, s) G G^T Psi(0, s)^T ds = W W^T,

``W`` is upper triangular with the data block first, and is the R factor of a QR decomposition of the quadrature columns
of N: nothing is squared, nothing is subtracted.  ``Z = W^-1 Psi(0, t)`` whitens.  The same holds with any time tau in the
place of the start: tau = 0 keeps all digits near the data, where Sigma_t is nearly singular, tau = t far from it, where
Psi(0, t) is.  With e the data block and p = Z Psi(t, 0) e,

    Sigma^-1 = Z^T Z,   sigma = 1/|p|,   y = sigma^2 p^T Z z,   s = -Z^T Z z + Z^T p D(y, sigma)

is the denoiser bridge: y is x_0 plus noise of standard deviation sigma (methods.md F3).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sympy as sp

from stepsmith.errors import Unsupported

from .flows import SPAN_PANELS, Flows
from .kernel import stationary_words
from .leaves import FEW, PANELS, REACH
from .lift import Lift, lifted, noise_change, own_rows
from .sde import LinearSDE


def stationary_law(sde: LinearSDE) -> sp.Matrix | None:
    """The constant S with F S + S F^T + G G^T = 0 in the words of let, where it exists and is short."""
    try:
        law = stationary_words(sde)
    except Unsupported:
        return None
    return law if sum(sp.count_ops(e) for e in law) < 200 else None


class Library(Flows):
    """The functions collected for one module, with the law of z_t and the frames; what a Lowering calls."""

    def __init__(self, sde: LinearSDE, params: Iterable[str]) -> None:
        super().__init__(sde, params)
        self._rest: tuple[sp.Matrix | None] | None = None

    def reverse_drift(self) -> str | None:
        """[R | e] of lift.py, for one block e alone; None where there is no lift."""
        sde, found = self.sde, lifted(self.sde)
        if found is None:
            return None
        needs = [self.quadrature(), self.psi(), self.diffusion(), self.drift()]
        needs.append(self.matrix("lift", found.lift, "b: G G^T b is the drift on rows of the data with noise of their own."))
        changing = not found.change.is_zero_matrix
        if changing:
            needs.append(self.matrix("lift_change", found.change, "b'."))
        moved = not sde.offset_let.is_zero_matrix
        own = (*(sde.state if sde.n > 1 else ()), *((*sde.constant, "one") if moved else ()))
        doc = f"What {', '.join(own[:-1])} and {own[-1]} are multiplied with in the reverse SDE beside the network's output."
        if sde.n == 1:
            needs += [self.sigma(), self.panels_to()]
            return self.add("reverse_drift", "reverse_drift_scalar", (), needs, doc=doc, changing=changing)
        near = self._reverse_near(found, needs, changing)
        uses = [near, self.whitening(), self.close(), self.drift(), self.diffusion(), *self.fineness()]
        if moved:
            uses += [self.offset(), self.offset_rate()]
        return self.add("reverse_drift", "reverse_drift", (), uses, moved=moved, doc=doc)

    def _reverse_near(self, found: Lift, needs: list[str], changing: bool) -> str:
        sde, law, change = self.sde, self._law(), noise_change(self.sde)
        needs += [self.static("matrix"), self.static("lower"), self.collocation()]
        needs.append(self.matrix("lift_rest", found.rest, "What the drift has beside G G^T b."))
        if law["ordered"]:
            needs += [self.ordered(), f"{law['psi']}_rate"]
        sharp, spread = ([i for i in range(sde.n) if (sde.initial_let[i, i] != 0) == started] for started in (False, True))
        if not change.is_zero_matrix:
            needs.append(self.matrix("noise_change", change, "(G G^T)'."))
        data = dict(sharp=sharp, spread=spread, own=own_rows(sde), changing=changing, louder=not change.is_zero_matrix)
        return self.add("reverse_near", "reverse_near", law["initial"], needs, **data, **law)

    @property
    def order(self) -> list[int] | None:
        """The blocks with the data first, or None where they stand so already."""
        order = [*self.sde.data, *(i for i in range(self.sde.n) if i not in self.sde.data)]
        return None if order == list(range(self.sde.n)) else order

    def _law(self) -> dict[str, Any]:
        """What the functions of the law share: Psi and its push from the start, and the factor of the start."""
        sde, psi = self.sde, self.psi()
        ordered = self.functions[psi].template == "transition_ordered"
        push = self.carried() if ordered else psi
        initial = sde.initial_let.applyfunc(sp.sqrt)
        columns = [j for j in range(sde.n) if initial[j, j] != 0]
        start = initial[:, columns] if columns else sp.zeros(sde.n, 0)
        return dict(
            psi=psi, push=push, push_times=("t",) if ordered else ("t", "torch.full_like(t, START)"), n=sde.n,
            ordered=ordered, initial=start, order=self.order, panels=PANELS, lets=self.timeless_lets(start),
        )  # fmt: skip

    def pulled(self) -> str:
        """W at the start of the span, of the module docstring."""
        law = self._law()
        uses = [self.quadrature(), self.static("matrix"), self.static("lower"), law["psi"], self.diffusion()]
        if law["ordered"]:
            uses += [self.ordered(), f"{law['psi']}_rate"]
        return self.add("pulled", "pulled", law["initial"], uses, **law)

    def settled(self) -> bool:
        """Adds the factor of Sigma_t far from the data, from the stationary law, and says whether there is one."""
        if self._rest is None:
            self._rest = (stationary_law(self.sde),)
        (rest,), order = self._rest, self.order
        if rest is not None:
            gap = sp.Matrix(self.sde.initial_let) - rest
            permuted = f"[..., {order}, :][..., {order}]" if order else ""
            lets = self.timeless_lets((*rest, *gap))
            self.add(
                "settled", "settled", (*rest, *gap), (self.static("matrix"),), law=rest, gap=gap, permuted=permuted, lets=lets
            )
        return rest is not None

    def gathered(self) -> str:
        """The factor of Sigma_t from the columns of its noise pulled to t: in between, and where there is no stationary law."""
        law, order = self._law(), self.order
        uses = [self.quadrature(), self.static("matrix"), self.static("lower"), law["psi"], self.diffusion(), self.drift()]
        uses += [self.pieces(), *self.fineness()]
        if law["ordered"]:
            uses += [self.ordered(), f"{law['psi']}_rate"]
        rows = f"[..., {order}, :]" if order else ""
        return self.add("gathered", "gathered", law["initial"], uses, rows=rows, **law)

    def cut(self) -> str:
        """The pieces of a step."""
        return self.add("cut", "helpers/cut", uses=(self.pieces(), *self.fineness()))

    def close(self) -> str:
        """Where z_t is so close to the data that its law is carried from the start."""
        law = self._law()
        uses = (*(("settled",) if self.settled() else ()), law["push"], self.drift(), self.pulled(), *self.fineness())
        return self.add("close", "close", (), uses, law=self.settled(), reach=REACH // 3 if law["ordered"] else REACH, **law)

    def whitening(self) -> str:
        """(Z, K, lead) of the module docstring, for two blocks or more."""
        law, order = self._law(), self.order
        place = [order.index(i) for i in range(self.sde.n)] if order else None
        uses = (*(("settled",) if self.settled() else ()), law["push"], self.pulled(), self.gathered())
        return self.add("whitening", "whitening", (), uses, place=place, law=self.settled(), **law)

    def denoiser(self) -> str:
        """(skip, out, inp, sigma) of the bridge."""
        return self.add("denoiser", "denoiser", (), (self.whitening(), self.close()))

    def edm(self) -> str:
        """(skip, out, inp, told) of an EDM-preconditioned network behind the bridge."""
        return self.add("edm", "edm", (sp.Symbol("sigma_data", real=True),), (self.whitening(), self.close()), n=self.sde.n)

    def cholesky(self, kind: str) -> str:
        """(out, inverse): out = -L^-T for the lower (or upper) Cholesky factor of Sigma, and its inverse -L^T."""
        uses = (self.whitening(), self.close(), self.static("lower"))
        return self.add(f"eps_{kind}", f"eps_{kind}", (), uses, n=self.sde.n)

    def turning(self) -> str:
        """Om of O' = Om O, with what whitens: R = K O is gDDIM's frame."""
        return self.add("turning", "turning", (), (self.whitening(), self.diffusion(), self.drift()))

    def rotation(self) -> str:
        """O(t1, t0): R_t = K O solves R' = (F + G G^T Sigma^-1 / 2) R."""
        uses = (self.log_nodes(), self.cut(), self.drift(), self.turning(), self.ordered(), self.reach())
        return self.add("rotation", "rotation", (), uses, n=self.sde.n)

    def reach(self) -> str:
        return self.static("log_reach", self.log_nodes(), self.collocation())

    def log_nodes(self) -> str:
        """The nodes of a step, fewer on a grid of short steps."""
        few = FEW if self.sde.n > 1 else None
        return self.add("log_nodes", "helpers/log_nodes", (), (self.quadrature(),), few=few, panels=2 * SPAN_PANELS)

    def transport_score(self, kind: str | None) -> str:
        """(Psi, gap = (Psi - U) Sigma at t0): the step of order one in the frame eps-R, on the score; with ``kind`` on the
        output of a network of that Cholesky factor, or of the frame itself ("gddim"), gap C_out."""
        nodes = self.log_nodes()
        uses = [nodes, self.psi(), self.whitening(), self.turning(), self.ordered(), self.reach(), self.close()]
        uses += [self.cut(), self.drift()]
        if kind is not None:
            uses.append(self.gddim() if kind == "gddim" else self.cholesky(kind))
        return self.add("transport_score", "transport_score", (), uses, kind=kind, n=self.sde.n)

    def gddim(self) -> str:
        """(out, inverse) at t0 and at t1 for R_t anchored at the data end of the grid, O = I there."""
        uses = (self.whitening(), self.close(), self.rotation())
        return self.add("eps_gddim", "eps_gddim", (), uses, n=self.sde.n)

    def tweedie(self, kind: str | None) -> str:
        """(pull, lift), a row a data block: its mean is pull z + lift s; with ``kind`` + lift eps, of a Cholesky factor."""
        uses = (self.whitening(), self.close(), self.pulled(), *((self.cholesky(kind),) if kind else ()))
        several = {"data": self.sde.data} if len(self.sde.data) > 1 else {}
        return self.add("tweedie", "tweedie", (), uses, kind=kind, **several)

    def start(self) -> str:
        """The lower factor of the covariance at a time: what the start of a run is drawn with."""
        if self.sde.n == 1:
            return self.add("start_factor", "start_scalar", (), (self.sigma(),))
        return self.add("start_factor", "start", (), (self.whitening(), self.close(), self.static("lower")))
