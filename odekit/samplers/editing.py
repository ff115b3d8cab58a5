"""Samples changed by way of their encodings: translated, steered, replayed with their noise, and mixed."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from odekit.errors import require_one_of
from odekit.loops.brownian import fresh_noise
from odekit.loops.table import SamplerTable, march, time_dtype
from odekit.samplers.denoiser import Denoiser, conversion, fitted
from odekit.samplers.inversion import invert, schedule_of
from odekit.samplers.sample import check, sample
from odekit.schedules import Schedule
from odekit.trees import lincomb, scale
from odekit.typing import PyTree, Scalar


def translate(
    source: Any,
    target: Any,
    table: SamplerTable,
    x: PyTree,
    *,
    cond: Any = None,
    target_cond: Any = None,
    encoder: SamplerTable | None = None,
) -> PyTree:
    """Carry a sample of one model over to another: encode it by the first, sample the second from there.

    Both models share only what they start from, so neither has seen the other's data. There and back by the same table
    errs by the solver's error alone, and with an invertible table (`bdia`) not at all if all slots are kept. The same
    model with two conditions edits by a prompt.

    Args:
        source: the model that `x` is a sample of.
        target: the model to sample.
        table: samples the target, and encodes as for `invert`.
        x: pytree of float arrays; or a `TableState`.
        cond: handed to source.
        target_cond: handed to target.
        encoder: as for `invert`.

    Returns:
        A sample of the target, like `x`.

    Raises:
        TypeError: as for `invert`.
        ValueError: as for `invert`.

    Example:
        >>> from odekit.samplers import bdia, gaussian
        >>> from odekit.schedules import VPLinear
        >>> vp, table = VPLinear(), bdia(VPLinear(), [1.0, 0.6, 0.3, 0.1, 0.001])
        >>> translate(gaussian([0.0], 0.5, vp), gaussian([9.0], 0.5, vp), table, jnp.zeros((2, 1))).shape
        (2, 1)

    Source: Su et al., Dual Diffusion Implicit Bridges, ICLR 2023 (arXiv 2203.08382).
    """
    found = invert(source, table, x, cond=cond, encoder=encoder, measure=False)
    return sample(target, table, found.state, cond=target_cond)


class _Controlled(eqx.Module):
    """A prediction, moved towards what it would be if one end of the path were known."""

    model: Any
    schedule: Schedule
    reference: PyTree
    strength: Any
    end: str = eqx.field(static=True)
    view: str = eqx.field(static=True)

    def __call__(self, x: PyTree, t: Array, cond: Any) -> PyTree:
        f, at = getattr(self.model, self.view)(x, t, cond), self.schedule
        p, q = conversion(self.end, self.view, at.alpha(t), at.sigma(t), at.alpha_dot(t), at.sigma_dot(t))
        by = self.strength(t) if callable(self.strength) else self.strength

        def mix(f: Array, x: Array, known: Array) -> Array:
            a, b, c = (fitted(jnp.asarray(v), x) for v in (by, p, q))
            return f + a * (b * x + c * jnp.asarray(known, x.dtype) - f)

        return jax.tree.map(mix, f, x, self.reference)


def controlled(
    model: Any, reference: PyTree, strength: Scalar | Callable[[Array], Scalar], end: str = "data"
) -> Denoiser:
    """Return the model steered towards a known end of the path: of strength 0 itself, of strength 1 a straight line.

    With the noise end and a table from data to noise it encodes an image to something the model finds likely (RF
    inversion, strength about 0.5); with the image as data end it keeps an edit close to the image, usually over the
    first part of the path only. Any schedule, any table.

    Args:
        model: a `Denoiser`, or any object with a schedule and views.
        reference: like the state: the known data, or the known noise.
        strength: () or a function of time t.
        end: "data" or "noise", what the reference is.

    Returns:
        A denoiser.

    Raises:
        TypeError: the model has no schedule.
        ValueError: there is no such end.

    Example:
        >>> from odekit.samplers import ddim, gaussian
        >>> from odekit.schedules import FlowMatching
        >>> flow, image = FlowMatching(), jnp.array([0.25])
        >>> close = controlled(gaussian([0.0], 1.0, flow), image, 1.0)
        >>> float(sample(close, ddim(flow, [1.0, 0.5, 0.0]), jnp.ones(1))[0])
        0.25

    Source: Rout et al., 2024, eqs. 8 and 15 (arXiv 2410.10792), where the end's own velocity is mixed in.
    """
    require_one_of("end", end, ("data", "noise"))
    schedule = schedule_of(model, "steering takes")
    view = getattr(model, "predicts", "velocity")
    return Denoiser(_Controlled(model, schedule, reference, strength, end, view), schedule, view)


def encode_noise(
    model: Any, table: SamplerTable, x: Array, *, key: Array, cond: Any = None
) -> tuple[Array, SamplerTable]:
    """Find the noise of a stochastic table that makes it sample `x`, and return it as a table without noise.

    The path from `x` to noise is drawn from the forward process; whatever the model then predicts along it, the noise
    of each row is what is left to the next state. Sampled with the same model and condition, the returned table gives
    `x` to rounding; with another it gives an edit, which keeps more of `x` than a deterministic encoding. Costs the
    table's evaluations; the returned table holds N states like `x`.

    Args:
        model: a `Denoiser`, or any object with a schedule and the table's view.
        table: of one slot, such as `ddim(eta=1)`, `dpmpp(tau=1)` or `sa`.
        x: (...) a sample, or a batch of them.
        key: for the path.
        cond: handed to the model.

    Returns:
        Where to start, and the table to sample from there.

    Raises:
        TypeError: the model has no schedule, x is not a float array.
        ValueError: the table has more than one slot, or adds noise before its first row.

    Example:
        >>> from odekit.samplers import ddim, gaussian
        >>> from odekit.schedules import VPLinear
        >>> model, table = gaussian([0.0], 1.0, VPLinear()), ddim(VPLinear(), [1.0, 0.5, 0.1], 1.0)
        >>> start, replay = encode_noise(model, table, jnp.array([0.7]), key=jax.random.key(0))
        >>> abs(float(sample(model, replay, start)[0]) - 0.7) < 1e-5
        True

    Source: Wu & De la Torre, CycleDiffusion, ICCV 2023, section 3.2 (arXiv 2210.05559).
    """
    x = jnp.asarray(x)
    if table.evals.shape[1] != 1 or table.start_noise is not None:
        raise ValueError(f"`table` is {table.name!r}, whose state is not one slot; take one as `ddim` or `sa` make.")
    check(model, table, x, key)
    schedule = schedule_of(model, "the forward process takes")
    start, residuals = _residuals(table.unlabelled(), model, schedule, x, key, cond)
    replay = SamplerTable(
        t=table.t,
        states=table.states,
        evals=table.evals,
        noise=None,
        t_state=table.t_state,
        view=table.view,
        name=f"{table.name} replay",
        source=table.source,
        offset=residuals[:, None],
    )
    return start, replay


@eqx.filter_jit
def _residuals(table: SamplerTable, model: Any, schedule: Schedule, x: Array, key: Array, cond: Any) -> tuple:
    """What each row lacks to lead along a path of the forward process that ends at `x`; and where the path starts."""
    ts = jnp.asarray(table.t_state, time_dtype(x))
    alpha, sigma = schedule.alpha(ts), schedule.sigma(ts)
    keep = alpha[:-1] / alpha[1:]
    spread = jnp.sqrt((sigma[:-1] - keep * sigma[1:]) * (sigma[:-1] + keep * sigma[1:]))

    def back(x, row):
        number, *numbers = row
        noisier = lincomb(jnp.stack(numbers), [x, fresh_noise(key, number, x)])
        return noisier, noisier

    order = jnp.arange(table.nfe, dtype=jnp.int32)[::-1]
    start, path = march(back, x, (order, keep[::-1], spread[::-1]))
    path = jnp.concatenate([path[::-1], x[None]])
    bare = SamplerTable(table.t, table.states, table.evals, None, table.t_state, table.view)

    def ahead(state, row):
        number, here, there = row
        state = bare.step(model, number, state._replace(slots=(here,)), cond=cond)
        return state, there - state.slots[0]

    return start, march(ahead, bare.init(start), (order[::-1], path[:-1], path[1:]))[1]


def slerp(a: PyTree, b: PyTree, weight: Scalar) -> PyTree:
    """Go from one encoding to another along the sphere, on which noise lives: at equal angles for equal weights.

    A straight line passes through states of too small a norm, which a model has never seen. For morphs: `invert` both
    samples, interpolate, sample. Each call takes one pair, all its leaves together; `jax.vmap` it over a batch.

    Args:
        a: pytree of float arrays, reached at weight 0.
        b: like `a`, reached at weight 1.
        weight: ().

    Returns:
        Like `a`; where the two point the same way, the straight line.

    Example:
        >>> half = slerp(jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0]), 0.5)
        >>> round(float(half[0]), 4), round(float(half[1]), 4)
        (0.7071, 0.7071)

    Source: Shoemake, SIGGRAPH 1985, section 3.3.
    """
    unit_a, unit_b = (scale(1 / _norm(tree), tree) for tree in (a, b))
    apart, along = (_norm(jax.tree.map(op, unit_a, unit_b)) for op in (jnp.subtract, jnp.add))
    angle = 2 * jnp.arctan2(apart, along)  # accurate also where the cosine is 1 to rounding
    weight = jnp.asarray(weight, angle.dtype)
    flat = jnp.sin(angle) <= 1e-6
    safe = jnp.where(flat, 1.0, angle)
    weights = [jnp.where(flat, w, jnp.sin(w * safe) / jnp.sin(safe)) for w in (1 - weight, weight)]
    return lincomb(jnp.stack(weights), [a, b])


def _norm(tree: PyTree) -> Array:
    total = sum(jnp.sum(jnp.square(leaf.astype(time_dtype(tree)))) for leaf in jax.tree.leaves(tree))
    return jnp.sqrt(jnp.maximum(total, jnp.finfo(time_dtype(tree)).tiny))
