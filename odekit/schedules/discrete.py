"""Schedules given by numbers, one for each training step of a published network."""
# ruff: noqa: D102 - the methods are documented once, on Schedule

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from odekit.schedules.base import namespace
from odekit.schedules.vp import VariancePreserving, VPCosine


class DiscreteVP(VariancePreserving):
    """Variance-preserving schedule given at times n/N, n=0..N, with `log(alpha)` linear in between.

    If alpha ends at 0, it is alpha that is linear in the last interval.

    Args:
        log_alphas: N+1 values of `log(alpha)`, the first 0, decreasing, the last one -inf or not; `from_betas` makes
            them.
        t_start: default start of a grid.
        t_end: default end of a grid.

    Source: Lu et al., NeurIPS 2022, appendix D.1 (arXiv 2206.00927), for the interpolation.
    """

    log_alphas: tuple[float, ...] = eqx.field(static=True)
    t_start: float = 1.0
    t_end: float = 1e-3

    @property
    def n(self) -> int:
        """The number of training steps."""
        return len(self.log_alphas) - 1

    @property
    def _vanishes(self) -> bool:
        return self.log_alphas[-1] == -np.inf

    def _knots(self, like):
        """The values and their differences in the precision of `like`; the last interval has none if alpha vanishes."""
        values = np.asarray(self.log_alphas)
        steps = np.diff(values[:-1], append=values[-2] if self._vanishes else values[-1])
        if isinstance(like, jax.Array):
            return jnp.asarray(values, like.dtype), jnp.asarray(steps, like.dtype)
        return values, steps

    def _locate(self, t):
        """Interval, position in it from 0 to 1, and the latter with 0 for all but a last interval in alpha."""
        xp = namespace(t)
        i = xp.clip(xp.ceil(xp.asarray(t * self.n)).astype("int32") - 1, 0, self.n - 1)
        u = t * self.n - i.astype(self._knots(t)[0].dtype)
        return i, u, xp.where(self._vanishes & (i == self.n - 1), u, xp.zeros_like(u))

    def log_alpha(self, t: Any) -> Any:
        values, steps = self._knots(t)
        i, u, last = self._locate(t)
        with np.errstate(divide="ignore"):
            return values[i] + u * steps[i] + namespace(t).log1p(-last)

    def alpha_dot(self, t: Any) -> Any:
        values, steps = self._knots(t)
        i, u, _ = self._locate(t)
        xp = namespace(t)
        alpha = xp.exp(values[i] + u * steps[i])  # in a last interval in alpha, that of its start
        return self.n * xp.where(self._vanishes & (i == self.n - 1), -alpha, alpha * steps[i])

    def t_of_log_alpha(self, log_alpha: Any) -> Any:
        values, steps = self._knots(log_alpha)
        xp = namespace(log_alpha)
        i = xp.clip(xp.searchsorted(-values, -log_alpha) - 1, 0, self.n - 1)
        last = self._vanishes & (i == self.n - 1)
        down = log_alpha - values[i]
        u = xp.where(last, -xp.expm1(down), xp.where(last, xp.zeros_like(down), down) / xp.where(last, -1.0, steps[i]))
        return (i.astype(values.dtype) + u) / self.n


def from_betas(betas: Any) -> DiscreteVP:
    """Return the continuous schedule through a discrete one, `alpha_n**2 = prod(1 - betas[:n+1])` at t=(n+1)/N.

    Use it for networks trained with N discrete steps (DDPM, latent diffusion).

    Args:
        betas: (N,), each in (0, 1), from data to noise; the last may be 1, which leaves no data at t=1.

    Returns:
        The schedule; its default grid ends at t=1/N.

    Raises:
        ValueError: betas is not one row of numbers between 0 and 1.

    Example:
        >>> round(float(from_betas(betas("linear")).alpha(1.0)), 6)
        0.006353

    Source: Ho et al., NeurIPS 2020 (arXiv 2006.11239).
    """
    betas = np.asarray(betas, np.float64)
    if betas.ndim != 1 or not betas.size or not np.all((betas > 0) & (betas < 1) | (betas == 1) & _is_last(betas)):
        raise ValueError(f"`betas` must be one row of numbers between 0 and 1: got shape {betas.shape}.")
    with np.errstate(divide="ignore"):
        log_alphas = np.concatenate([[0.0], 0.5 * np.cumsum(np.log1p(-betas))])
    return DiscreteVP(log_alphas=tuple(log_alphas.tolist()), t_end=1 / betas.size)


def _is_last(row: np.ndarray) -> np.ndarray:
    return np.arange(row.size) == row.size - 1


_ENDS = {"linear": (1e-4, 0.02), "scaled_linear": (0.00085, 0.012)}


def betas(kind: str = "linear", n: int = 1000, start: float | None = None, end: float | None = None) -> np.ndarray:
    """Return the rates that published networks were trained with.

    Args:
        kind: "linear" (DDPM), "scaled_linear" (linear in the square root: latent diffusion), or "cosine" (improved
            DDPM, each at most 0.999).
        n: number of training steps.
        start: first rate of the linear kinds; None for 1e-4 and 0.00085.
        end: last rate of the linear kinds; None for 0.02 and 0.012.

    Returns:
        (n,) float64, for `from_betas`.

    Raises:
        ValueError: kind is none of the three, or start or end are given for "cosine".

    Example:
        >>> betas("scaled_linear")[[0, -1]].round(5).tolist()
        [0.00085, 0.012]

    Source: Ho et al., NeurIPS 2020; Rombach et al., CVPR 2022; Nichol & Dhariwal, ICML 2021, eq. 17.
    """
    if kind == "cosine":
        if start is not None or end is not None:
            raise ValueError("`start` and `end` were given for the kind 'cosine', which has neither; drop them.")
        shape = VPCosine()
        alpha2 = shape.alpha(np.arange(n + 1) / n) ** 2
        return np.minimum(1 - alpha2[1:] / alpha2[:-1], 0.999)
    if kind not in _ENDS:
        raise ValueError(f"`kind` is {kind!r}; it must be 'linear', 'scaled_linear' or 'cosine'.")
    first, last = (
        default if given is None else given for given, default in zip((start, end), _ENDS[kind], strict=True)
    )
    return np.linspace(first, last, n) if kind == "linear" else np.linspace(np.sqrt(first), np.sqrt(last), n) ** 2


def zero_terminal_snr(betas: Any) -> np.ndarray:
    """Return rates whose last point is pure noise: alpha is shifted and stretched so that it ends at 0.

    For networks trained so; they predict "v" or "data", and are sampled from t=1 (spacing "trailing").

    Args:
        betas: (N,), each in (0, 1).

    Returns:
        (N,) float64, the first as given and the last 1.

    Example:
        >>> float(from_betas(zero_terminal_snr(betas("scaled_linear"))).alpha(1.0))
        0.0

    Source: Lin, Liu, Li & Yang, WACV 2024, algorithm 1 (arXiv 2305.08891).
    """
    alpha = np.sqrt(np.cumprod(1 - np.asarray(betas, np.float64)))
    alpha = (alpha - alpha[-1]) * (alpha[0] / (alpha[0] - alpha[-1]))
    return 1 - (alpha / np.append(1.0, alpha[:-1])) ** 2
