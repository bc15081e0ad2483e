"""Problems whose score is known exactly: Gaussians, Gaussian mixtures and smoothed data sets, in any dimension, for any
n-block SDE.

The data is x0 ~ sum_k w_k N(mu_k, C_k) in R^d. With C_k = U_k diag(c_k) U_k^T (c_k once for all coordinates where C_k =
c_k I),

    denoiser   E[x0 | x0 + sigma eps = y] = sum_k r_k(y) (mu_k + C_k (C_k + sigma^2 I)^-1 (y - mu_k)),
               r_k(y) proportional to w_k N(y; mu_k, C_k + sigma^2 I);

    n blocks   z = p (x) x0 + noise, p = Psi e_data, noise ~ N(0, Sigma (x) I): in the coordinates of U_k the n d x n d
    covariance of
               component k falls apart into d matrices S_kj = c_kj p p^T + Sigma, each n x n, and
               score = -sum_k r_k(z) S_k^-1 (z - p mu_k),   E[x0 | z] = sum_k r_k(z) (mu_k + C_k p^T S_k^-1 (z - p
               mu_k)).

The second line does not use the first: the two check the scalar bridge against each other. Work is in float64 by
log-sum-exp; results have the dtype of their arguments.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from stepsmith.errors import InputError
from stepsmith.runtime.networks.base import Network
from stepsmith.runtime.spectral import Transform

Tensors = tuple[torch.Tensor, ...]
_FACTORS = {"eps-L": "lower", "eps-U": "upper", "eps-R": "gddim"}
KINDS = ("score", "x0", *_FACTORS, "eps", "v", "flow")


def _float64(value: Any) -> torch.Tensor:
    return torch.as_tensor(value, dtype=torch.float64).detach().clone()


def _refuse(key: str, what: str, fix: str) -> InputError:
    return InputError(where="-", key=key, what=what, fix=fix)


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """sum_k w_k N(mu_k, C_k), exact.

    ``weights`` (K,) positive, scaled to sum 1; ``means`` (K, *shape), shape () for numbers; ``spread``: standard
    deviations as one number or (K,), or covariances (K, d, d) with d the product of the shape. Zero spread (points) is
    allowed as long as noise is added. Raises InputError (keys ``weights``, ``means``, ``spread``) for what does not fit
    or is not positive semi-definite.
    """

    weights: torch.Tensor
    means: torch.Tensor  # (K, d)
    variances: torch.Tensor  # eigenvalues of C_k, (K, d), or (K, 1) where C_k = c_k I
    vectors: torch.Tensor | None  # (K, d, d), columns are eigenvectors
    shape: tuple[int, ...]

    def __init__(self, weights: Any, means: Any, spread: Any) -> None:
        weights, means, spread = _float64(weights), _float64(means), _float64(spread)
        if weights.dim() != 1 or not (weights > 0).all() or not torch.isfinite(weights).all():
            raise _refuse("weights", f"{weights.tolist()} are no weights", "give one positive number a component")
        if means.dim() < 1 or means.shape[0] != weights.shape[0] or not torch.isfinite(means).all():
            raise _refuse("means", f"their shape is {tuple(means.shape)}", f"give {len(weights)} finite means")
        count, shape = means.shape[0], tuple(means.shape[1:])
        variances, vectors = _spread(spread, count, math.prod(shape))
        values = (weights / weights.sum(), means.reshape(count, -1), variances, vectors, shape)
        for name, value in zip(("weights", "means", "variances", "vectors", "shape"), values, strict=True):
            object.__setattr__(self, name, value)

    @property
    def size(self) -> int:
        """The dimension d of one sample."""
        return self.means.shape[1]

    def denoiser(self, y: torch.Tensor, sigma: torch.Tensor | float) -> torch.Tensor:
        """E[x0 | x0 + sigma eps = y], y (batch, *shape), sigma a number or a 0-d tensor; shape and dtype of y."""
        flat = y.to(torch.float64).reshape(y.shape[0], self.size)
        variance = torch.as_tensor(sigma, dtype=torch.float64) ** 2
        total = self.variances + variance  # (K, d) or (K, 1)
        prior = self.weights.log() - 0.5 * self._over(total.log())
        if self.vectors is None:
            distance = torch.cdist(flat, self.means, compute_mode="donot_use_mm_for_euclid_dist") ** 2
            share = torch.softmax(prior - 0.5 * distance / total[:, 0], dim=1)
            gain = (self.variances / total)[:, 0]
            result = (share * (1 - gain)) @ self.means + (share @ gain).unsqueeze(1) * flat
        else:
            turned = torch.einsum("kji,bkj->bki", self.vectors, flat.unsqueeze(1) - self.means)
            share = torch.softmax(prior - 0.5 * (turned**2 / total).sum(2), dim=1)
            shrunk = torch.einsum("kij,bkj->bki", self.vectors, turned * (self.variances / total)) + self.means
            result = torch.einsum("bk,bki->bi", share, shrunk)
        return result.reshape(y.shape).to(y.dtype)

    def network(self) -> Network:
        """The exact network of kind ``denoiser``: ((y,), sigma) -> (denoiser(y, sigma),)."""
        return Network(lambda inputs, time: (self.denoiser(inputs[0], time),), "denoiser", self.shape)

    def sample(self, n: int, seed: int) -> torch.Tensor:
        """n exact samples (n, *shape), float64, decided by the seed."""
        generator = torch.Generator().manual_seed(seed)
        which = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, self.size, dtype=torch.float64, generator=generator) * self.variances[which].sqrt()
        if self.vectors is not None:
            noise = torch.einsum("nij,nj->ni", self.vectors[which], noise)
        return (self.means[which] + noise).reshape(n, *self.shape)

    def moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean (d,) and the covariance (d, d) of the data."""
        mean = self.weights @ self.means
        gap = self.means - mean
        own = torch.diag_embed(self.variances.expand(-1, self.size))
        if self.vectors is not None:
            own = self.vectors @ own @ self.vectors.mT
        return mean, torch.einsum("k,kij->ij", self.weights, own) + torch.einsum("k,ki,kj->ij", self.weights, gap, gap)

    def score(self, blocks: Sequence[torch.Tensor], Psi: Any, Sigma: Any, data: int = 0) -> Tensors:
        """grad log p(z) of the n blocks (each (batch, *shape)) for transition Psi and covariance Sigma, (n, n) numpy or
        torch."""
        return self._posterior(blocks, Psi, Sigma, data)[0]

    def posterior_mean(self, blocks: Sequence[torch.Tensor], Psi: Any, Sigma: Any, data: int = 0) -> torch.Tensor:
        """E[x0 | z], (batch, *shape); arguments as :meth:`score`."""
        return self._posterior(blocks, Psi, Sigma, data)[1]

    def _posterior(
        self, blocks: Sequence[torch.Tensor], Psi: Any, Sigma: Any, data: int
    ) -> tuple[Tensors, torch.Tensor]:
        like = blocks[0]
        z = torch.stack([b.to(torch.float64).reshape(b.shape[0], self.size) for b in blocks], dim=-1)  # (B, d, n)
        p, S = _float64(Psi)[:, data], _float64(Sigma)
        factor = torch.linalg.cholesky(self.variances[..., None, None] * torch.outer(p, p) + S)  # (K, d or 1, n, n)
        gap = self._turn(z.unsqueeze(1) - self.means[..., None] * p, back=False)
        white = torch.linalg.solve_triangular(factor, gap.unsqueeze(-1), upper=False)
        logs = self._over(factor.diagonal(dim1=-2, dim2=-1).log().sum(-1))
        share = torch.softmax(self.weights.log() - logs - 0.5 * (white**2).sum((2, 3, 4)), dim=1)
        pull = -torch.linalg.solve_triangular(factor.mT, white, upper=True).squeeze(-1)
        score = torch.einsum("bk,bkdn->bdn", share, self._turn(pull, back=True))
        guess = self.means - self._turn((self.variances * (pull @ p)).unsqueeze(-1), back=True).squeeze(-1)
        mean = torch.einsum("bk,bkd->bd", share, guess)
        scores = tuple(s.reshape(like.shape).to(like.dtype) for s in score.unbind(-1))
        return scores, mean.reshape(like.shape).to(like.dtype)

    def _turn(self, values: torch.Tensor, back: bool) -> torch.Tensor:
        """(B, K, d, n) into the eigenvectors' coordinates, or back."""
        if self.vectors is None:
            return values
        return torch.einsum("kij,bkjn->bkin" if back else "kji,bkjn->bkin", self.vectors, values)

    def _over(self, values: torch.Tensor) -> torch.Tensor:
        """(K,): the sum over the d coordinates of ``values``, (K, d) or (K, 1) for all of them."""
        return values.sum(1) * (self.size / values.shape[1])

    def score_network(self, kind: str, view: Any, data: int = 0, end: float | None = None) -> Network:
        """The exact network of another parameterisation of the n-block SDE with the numeric view ``view``.

        (z blocks, t) -> outputs; with s the score, K K^T = Sigma the factor of the kind: ``score``: s; ``eps-L``,
        ``eps-U``, ``eps-R``: -K^T s, one output a block (lower, upper Cholesky, gDDIM); ``x0``: E[x0 | z], one output;
        ``flow``: dz/dt of the probability flow, F z + b - G G^T s/2; and for one block with z = alpha x0 + sigma eps,
        ``eps``: E[eps | z] = -sigma s and ``v``: alpha E[eps | z] - sigma E[x0 | z]. Where the SDE has an
        offset, the constant components are inputs too, behind the blocks, and z is taken without the offset of its mean,
        ``view.offset(t, s)``. ``view`` has ``rates(t)``, ``transition(t, s)``,
        ``covariance(t)``, ``factor(t, kind="lower" | "upper" | "gddim")``, numpy float64; ``end`` is handed to ``factor``
        for eps-R where given. Reads the time on the host: for tests, not for speed.

        Raises InputError (key ``network``) for another kind, or ``eps`` and ``v`` of more than one block.
        """
        if kind not in KINDS:
            raise _refuse("network", f"no exact network of kind {kind!r}", f"known are {', '.join(KINDS)}")
        first = float(getattr(getattr(view, "sde", view), "time", (0.0,))[0])
        count = len(view.covariance(first))
        if kind in ("eps", "v") and count != 1:
            raise _refuse("network", f"{kind} is for one block, this SDE has {count}", "use eps-L, score or x0")

        def call(inputs: Tensors, time: torch.Tensor) -> Tensors:
            t = float(time)
            Psi, Sigma = view.transition(t, first), view.covariance(t)
            score, mean = self._posterior(_centred(inputs, view, t, first, count), Psi, Sigma, data)
            if kind in _FACTORS:
                extra = {} if end is None or kind != "eps-R" else {"end": end}
                factor = view.factor(t, kind=_FACTORS[kind], **extra)
                weight = -torch.tensor(factor.tolist(), dtype=inputs[0].dtype)
                return torch.einsum("ji,j...->i...", weight, torch.stack(score)).unbind(0)
            if kind == "flow":
                return _velocity(inputs, score, *view.rates(t))
            sigma = math.sqrt(float(Sigma[0, 0]))
            eps = -sigma * score[0]
            answers = {"score": score, "x0": (mean,), "eps": (eps,), "v": (float(Psi[0, 0]) * eps - sigma * mean,)}
            return answers[kind]

        given = len(getattr(getattr(view, "sde", None), "constant", ()))
        return Network(call, kind, self.shape, None, count + given, 1 if kind == "x0" else count)


def _velocity(inputs: Tensors, score: Tensors, F: Any, drift: Any, power: Any) -> Tensors:
    """F z + b - G G^T s/2, block by block."""
    rows = zip(F.tolist(), drift.tolist(), (power / 2).tolist(), strict=True)
    terms = (zip((*f, *b, *(-v for v in p)), (*inputs, 1.0, *score), strict=True) for f, b, p in rows)
    return tuple(sum((c * value for c, value in each), torch.zeros_like(inputs[0])) for each in terms)


def _centred(inputs: Tensors, view: Any, time: float, first: float, count: int) -> Tensors:
    """The blocks without the offset of their mean."""
    blocks, given = inputs[:count], inputs[count:]
    if not hasattr(view, "offset"):
        return blocks
    rows = view.offset(time, first).tolist()
    return tuple(
        z - sum((c * value for c, value in zip(row, given, strict=False)), row[-1])
        for z, row in zip(blocks, rows, strict=True)
    )


@dataclass(frozen=True, eq=False)
class SpectralGaussian:
    """Images whose cosine coefficients are independent, u_k ~ N(m_k, c_k): the exact problem of a blurring diffusion.

    ``mean`` and ``variance`` (H, W) are those of the coefficients. With z_k = alpha_k u_k + sigma_k eps at a time,

        E[eps_k | z] = sigma_k (z_k - alpha_k m_k)/(alpha_k^2 c_k + sigma_k^2),
        E[u_k | z] = (z_k - sigma_k E[eps_k | z])/alpha_k.
    """

    mean: torch.Tensor
    variance: torch.Tensor

    def network(self, kind: str, alpha: Any, sigma: Any) -> Network:
        """The exact network of images, of kind ``eps-L``, ``x0``, ``score`` or ``v``; ``alpha(t)`` and ``sigma(t)``: 0-d
        float64 -> (H, W) or a number. Its quantities are those of the coefficients, transformed back.
        """
        if kind not in ("eps-L", "x0", "score", "v"):
            raise _refuse("network", f"no exact network of kind {kind!r}", "known are eps-L, x0, score, v")
        transform = Transform.of(self.mean.shape, torch.float64)

        def call(inputs: Tensors, time: torch.Tensor) -> Tensors:
            (image,) = inputs
            z, a, s = transform.forth(image.to(torch.float64)), alpha(time), sigma(time)
            eps = s * (z - a * self.mean) / (a**2 * self.variance + s**2)
            data = (z - s * eps) / a
            found = {"eps-L": eps, "x0": data, "score": -eps / s, "v": a * eps - s * data}[kind]
            return (transform.back(found).to(image.dtype),)

        return Network(call, kind, (1, *self.mean.shape))


def Gaussian(mean: Any, variance: Any = 1.0) -> GaussianMixture:
    """N(mean, C): a mixture of one. ``mean`` has the shape of a sample; ``variance`` is a number (C = variance I) or C
    itself, (d, d)."""
    mean, variance = _float64(mean), _float64(variance)
    return GaussianMixture([1.0], mean.unsqueeze(0), variance.sqrt() if variance.dim() == 0 else variance.unsqueeze(0))


def SmoothedSet(points: Any, sigma0: float) -> GaussianMixture:
    """The data set ``points`` (K, *shape), each blurred by N(0, sigma0^2 I): its kernel density, as an exact
    problem."""
    points = _float64(points)
    return GaussianMixture(torch.ones(points.shape[0]), points, sigma0)


def _spread(spread: torch.Tensor, count: int, size: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Eigenvalues and eigenvectors of every C_k from standard deviations or covariances."""
    if spread.dim() <= 1 and spread.numel() in (1, count):
        if not (torch.isfinite(spread) & (spread >= 0)).all():
            raise _refuse("spread", f"{spread.tolist()} are no standard deviations", "give finite numbers, 0 or more")
        return (spread**2).expand(count).unsqueeze(1).clone(), None
    if spread.shape != (count, size, size):
        raise _refuse(
            "spread",
            f"its shape is {tuple(spread.shape)}",
            f"give a number, or shape {(count,)} or {(count, size, size)}",
        )
    if not torch.isfinite(spread).all() or not torch.allclose(spread, spread.mT):
        raise _refuse("spread", "a covariance is not finite and symmetric", "give symmetric matrices")
    values, vectors = torch.linalg.eigh(spread)
    if (values < -1e-12 * values.abs().amax()).any():
        raise _refuse("spread", "a covariance has a negative eigenvalue", "give positive semi-definite matrices")
    return values.clamp(min=0), vectors
