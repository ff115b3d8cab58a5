"""Sampling problems whose exact answers are known, and two runners of tables that share no code with the package."""

import functools
import itertools
import json
import operator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp
from scipy.stats import norm

from odekit.samplers import Denoiser, GaussianMixture, time_grid
from odekit.schedules import EDM, FlowMatching, VPLinear

GOLDEN = Path(__file__).parent / "golden" / "sampling_references.json"
VP, FM, VE = VPLinear(), FlowMatching(), EDM()
ENDS = {"VP": (VP, 1.0, 1e-3), "FM": (FM, 1.0, 0.0), "VE": (VE, 80.0, 0.002), "FM inner": (FM, 0.999, 0.02)}
"""Name: schedule, first and last time of the probability flow whose end points are in the golden file."""


def mixture(schedule):
    """Three isotropic components in the plane."""
    means, stds = [[-1.2, -0.5], [1.0, 0.3], [0.1, 1.4]], [0.30, 0.40, 0.25]
    return GaussianMixture([0.3, 0.5, 0.2], means, stds, schedule)


@functools.cache
def toy(schedule, predicts="noise"):
    """A small nonlinear network, quick to compile; the same object every time, so that loops are compiled once."""
    return Denoiser(lambda x, t, cond: jnp.tanh(x + t.astype(x.dtype)), schedule, predicts)


@functools.cache
def numpy_view(schedule, view):
    """A prediction of the mixture as `view(x, t)` on NumPy arrays."""
    model = mixture(schedule)
    compiled = jax.jit(lambda x, t: getattr(model, view)(x, t))
    return lambda x, t: np.asarray(compiled(jnp.asarray(x), t))


def starts(case="FM"):
    """(64, 2) unit normals by quasi-random numbers, scaled for variance-exploding paths."""
    p = 1.32471795724474602596
    z = norm.ppf(np.mod(0.5 + np.arange(1, 65)[:, None] * np.array([1 / p, 1 / p**2]), 1))
    return 80.0 * z if case == "VE" else z


def ends(case):
    """(64, 2) where the probability flow takes `starts(case)`."""
    return np.array(json.loads(GOLDEN.read_text())[case])


def run_by_hand(table, view, x, z, past=()):
    """Run a table in NumPy: `view(x, t)` is the prediction, `z[k]` the noise of row k, `z[N]` that before row 0.

    With `past`, the evaluations of the first rows, it begins with the row after these, and `x` lists its slots.
    """
    x = x if table.start_noise is None else x + float(table.start_noise) * z[table.nfe]
    return slots_by_hand(table, view, x if past else [x] * table.states.shape[1], z, past)[0]


def slots_by_hand(table, view, slots, z, past=()):
    """Run a table in NumPy from all its slots to all its slots; noise of one number is one draw."""
    states, evals, t = (np.asarray(leaf) for leaf in (table.states, table.evals, table.t))
    slots = slots if table.start is None else [sum(map(operator.mul, row, slots)) for row in np.asarray(table.start)]
    depth, draws = evals.shape[2], table.draws or range(len(t))
    ring = [np.zeros_like(slots[0])] * depth
    for k, f in enumerate(past):
        ring[k % depth] = f
    for k in range(len(past), len(t)):
        ring[k % depth] = view(slots[0], t[k])
        slots = [
            sum(c * u for c, u in zip(states[k, a], slots, strict=True))
            + sum(c * f for c, f in zip(evals[k, a], ring, strict=True))
            + (0.0 if table.noise is None else np.asarray(table.noise)[k, a] * z[draws[k]])
            + (0.0 if table.offset is None else np.asarray(table.offset)[k, a])
            for a in range(len(slots))
        ]
    return [np.asarray(slot) for slot in slots]


def flow_error(table, case):
    """Root mean square distance of a table's samples from the exact probability flow."""
    end = run_by_hand(table, numpy_view(ENDS[case][0], table.view), starts(case), None)
    return np.sqrt(np.mean((end - ends(case)) ** 2))


GRIDS = [("logsnr", 5), ("logsnr", 10), ("logsnr", 20)]
GRIDS += [("quadratic", 5), ("quadratic", 10), ("quadratic", 20), ("time", 10), ("time", 20)]
"""The grids on VP that most errors are given for."""


def assert_errors(build, printed, more=0):
    """Assert that `build(schedule, ts)` has these errors, to three digits, on GRIDS; None where there is no number.

    A table that takes some `more` evaluations than steps gets so many steps less.
    """
    for (spacing, n), want in zip(GRIDS, printed, strict=True):
        if want is not None:
            value = flow_error(build(VP, time_grid(VP, n - more, spacing)), "VP")
            assert agrees(value, want), f"{spacing} {n}: {value:.4e}, not {want:.2e}"


def flow_slope(build, spacing="logsnr", case="VP"):
    """log2 of error(128) / error(256) on a spacing of the times of `case`."""
    schedule, first, last = ENDS[case]
    coarse, fine = (
        flow_error(build(schedule, time_grid(schedule, n, spacing, start=first, end=last)), case) for n in (128, 256)
    )
    return np.log2(coarse / fine)


@functools.cache
def flow_states(case, ts):
    """Exact states of the probability flow at the times `ts`, a tuple that starts at the first time of `case`."""
    velocity, states = numpy_view(ENDS[case][0], "velocity"), [starts(case)]
    for t0, t1 in itertools.pairwise(ts):
        flat = solve_ivp(
            lambda t, x: velocity(x.reshape(64, 2), t).ravel(),
            (t0, t1),
            states[-1].ravel(),
            "DOP853",
            rtol=1e-12,
            atol=1e-13,
        )
        states.append(flat.y[:, -1].reshape(64, 2))
    return states


def slope_with_history(build, row, spacing="logsnr", case="VP"):
    """The same slope, of tables that begin at `row`, all before which is exact: what a method has without its ramp.

    A second slot is the state at the start of the step, carried on as a corrector expects it.
    """
    schedule, first, last = ENDS[case]
    errors = []
    for n in (128, 256):
        ts = time_grid(schedule, n, spacing, start=first, end=last)
        table = build(schedule, ts)
        view, exact = numpy_view(schedule, table.view), flow_states(case, tuple(ts[: row + 1]))
        slots = [exact[row]] + [float(table.states[row - 1, 1, 1]) * exact[row - 1]] * (table.states.shape[1] - 1)
        ring = [view(x, t) for x, t in zip(exact[:row], ts, strict=False)]
        end = run_by_hand(table, view, slots, None, ring)
        errors.append(np.sqrt(np.mean((end - ends(case)) ** 2)))
    return np.log2(errors[0] / errors[1])


def law_error(table, schedule, mean=0.5, std=0.25):
    """Wasserstein distance of what a table samples from the exact marginal, for Gaussian data, without sampling.

    Every prediction is affine in the state, so the state can be carried as coefficients of
    (1, first normal, the normal of row 0, of row 1 ..., that before row 0), of which the law is read off.
    """
    n = table.nfe
    one, t0, t1 = np.eye(n + 3)[0], float(table.t_state[0]), float(table.t_state[-1])

    def marginal(t):
        return schedule.alpha(t) * mean, np.hypot(schedule.alpha(t) * std, schedule.sigma(t))

    def noise(x, t):
        center, spread = marginal(t)
        return schedule.sigma(t) / spread**2 * (x - center * one)

    def data(x, t):
        return mean * one + schedule.alpha(t) * std**2 / marginal(t)[1] ** 2 * (x - marginal(t)[0] * one)

    def score(x, t):
        return -(x - marginal(t)[0] * one) / marginal(t)[1] ** 2

    def velocity(x, t):
        return schedule.alpha_dot(t) * data(x, t) + schedule.sigma_dot(t) * noise(x, t)

    x = np.zeros(n + 3)
    x[:2] = marginal(t0)
    view = {"data": data, "noise": noise, "score": score, "velocity": velocity}[table.view]
    end = run_by_hand(table, view, x, np.eye(n + 3)[2:])
    want = marginal(t1)
    return np.hypot(end[0] - want[0], np.linalg.norm(end[1:]) - want[1])


def agrees(value, printed):
    """Whether `value` is `printed`, a number given to three digits; half a unit of the last, and a breath for ties."""
    unit = 10.0 ** (np.floor(np.log10(abs(printed))) - 2)
    return abs(value - printed) <= 0.505 * unit
