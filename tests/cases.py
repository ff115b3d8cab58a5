"""Problems with reference end values, as plain data.

Vector fields are `f(t, y, args)` on one array. The end values are in `golden/ode_references.json`, made by the script
beside it; `test_cases.py` compares them with what has been published.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

REFERENCES = json.loads((Path(__file__).parent / "golden" / "ode_references.json").read_text())


class Case(NamedTuple):
    """Integrate `f` from `(t0, y0)`; the state at `t1` is `y1`."""

    name: str
    f: Callable
    y0: np.ndarray
    t0: float
    t1: float
    y1: np.ndarray


def case(name, f, y0, t1, y1=None, t0=0.0):
    end = REFERENCES.get(name, np.nan) if y1 is None else y1  # NaN only while the script makes the references
    return Case(name, f, np.asarray(y0, float), t0, t1, np.asarray(end, float))


def lorenz(t, y, args):
    return jnp.stack([10.0 * (y[1] - y[0]), y[0] * (28.0 - y[2]) - y[1], y[0] * y[1] - 8 / 3 * y[2]])


def lotka_volterra(t, y, args):
    a, b, c, d = (1.5, 1.0, 3.0, 1.0) if args is None else args
    return jnp.stack([a * y[0] - b * y[0] * y[1], -c * y[1] + d * y[0] * y[1]])


def van_der_pol(t, y, args):
    mu = 1.0 if args is None else args
    return jnp.stack([y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]])


def kepler(t, y, args):
    return jnp.concatenate([y[2:], -y[:2] / jnp.sum(y[:2] ** 2) ** 1.5])


def kepler_start(e):
    return [1 - e, 0.0, 0.0, ((1 + e) / (1 - e)) ** 0.5]


def arenstorf(t, y, args):
    mu = 0.012277471
    x, z, dx, dz = y
    d1, d2 = ((x + mu) ** 2 + z**2) ** 1.5, ((x - 1 + mu) ** 2 + z**2) ** 1.5
    ddx = x + 2 * dz - (1 - mu) * (x + mu) / d1 - mu * (x - 1 + mu) / d2
    return jnp.stack([dx, dz, ddx, z - 2 * dx - (1 - mu) * z / d1 - mu * z / d2])


def pleiades(t, y, args):
    """Seven stars in the plane with masses 1 to 7: x, y, x', y'."""
    x, z, velocity = y[:7], y[7:14], y[14:]
    dx, dz = x[None, :] - x[:, None], z[None, :] - z[:, None]
    weight = jnp.arange(1.0, 8.0)[None, :].astype(y.dtype) / (dx**2 + dz**2 + jnp.eye(7, dtype=y.dtype)) ** 1.5
    return jnp.concatenate([velocity, jnp.sum(weight * dx, axis=1), jnp.sum(weight * dz, axis=1)])


PLEIADES_START = [
    *(3, 3, -1, -3, 2, -2, 2),
    *(3, -3, 2, 0, 0, -4, 4),
    *(0, 0, 0, 0, 0, 1.75, -1.5),
    *(0, 0, 0, -1.25, 1, 0, 0),
]


def _decay_chain(rates):
    """y_i' = rates[i-1] y_{i-1} - rates[i] y_i."""

    def f(t, y, args):
        flow = jnp.asarray(rates, y.dtype) * y
        return -flow + jnp.concatenate([jnp.zeros_like(y[:1]), flow[:-1]])

    return f


def _heat_chain(t, y, args):
    zero = jnp.zeros_like(y[:1])
    return jnp.concatenate([zero, y[:-1]]) - 2 * y + jnp.concatenate([y[1:], zero])


def _outer_planets(t, y, args):
    """DETEST C5: Jupiter to Pluto about the sun, 15 positions and 15 velocities."""
    mass = jnp.asarray(
        [0.000954786104043, 0.000285583733151, 0.0000437273164546, 0.0000517759138449, 0.00000277777777778], y.dtype
    )
    k2, sun = 2.95912208286, 1.00000597682
    r = y[:15].reshape(5, 3)
    pull = r / jnp.sum(r**2, axis=1, keepdims=True) ** 1.5
    apart = r[None] - r[:, None]
    distance3 = (jnp.sum(apart**2, axis=2) + jnp.eye(5, dtype=y.dtype)) ** 1.5
    pair = apart / distance3[:, :, None] - (1 - jnp.eye(5, dtype=y.dtype))[:, :, None] * pull[None]
    force = -(sun + mass)[:, None] * pull + jnp.sum(mass[None, :, None] * pair, axis=1)
    return jnp.concatenate([y[15:], k2 * force.reshape(15)])


def _bessel(t, y, args):
    return jnp.stack([y[1], -(y[1] / (t + 1) + (1 - 0.25 / (t + 1) ** 2) * y[0])])


def _torus(t, y, args):
    r = jnp.sqrt(y[0] ** 2 + y[1] ** 2)
    return jnp.stack([-y[1] - y[0] * y[2] / r, y[0] - y[1] * y[2] / r, y[0] / r])


OUTER_PLANETS_START = [
    *(3.42947415189, 3.35386959711, 1.35494901715, 6.64145542550, 5.97156957878, 2.18231499728),
    *(11.2630437207, 14.6952576794, 6.27960525067, -30.1552268759, 1.65699966404, 1.43785752721),
    *(-21.1238353380, 28.4465098142, 15.3882659679, -0.557160570446, 0.505696783289, 0.230578543901),
    *(-0.415570776342, 0.365682722812, 0.169143213293, -0.325325669158, 0.189706021964, 0.0877265322780),
    *(-0.0240476254170, -0.287659532608, -0.117219543175, -0.176860753121, -0.216393453025, -0.0148647893090),
]
E1_START = (0.6713967071418030, 0.09540051444747446)

DETEST = (
    case("A1", lambda t, y, args: -y, [1.0], 20.0),
    case("A2", lambda t, y, args: -0.5 * y**3, [1.0], 20.0),
    case("A3", lambda t, y, args: y * jnp.cos(t), [1.0], 20.0),
    case("A4", lambda t, y, args: y / 4 * (1 - y / 20), [1.0], 20.0),
    case("A5", lambda t, y, args: (y - t) / (y + t), [4.0], 20.0),
    case("B1", lambda t, y, args: jnp.stack([2 * (y[0] - y[0] * y[1]), -(y[1] - y[0] * y[1])]), [1.0, 3.0], 20.0),
    case("B2", lambda t, y, args: jnp.stack([y[1] - y[0], y[0] - 2 * y[1] + y[2], y[1] - y[2]]), [2.0, 0, 1], 20.0),
    case("B3", lambda t, y, args: jnp.stack([-y[0], y[0] - y[1] ** 2, y[1] ** 2]), [1.0, 0, 0], 20.0),
    case("B4", _torus, [3.0, 0, 0], 20.0),
    case("B5", lambda t, y, args: jnp.stack([y[1] * y[2], -y[0] * y[2], -0.51 * y[0] * y[1]]), [0.0, 1, 1], 20.0),
    case("C1", _decay_chain([1.0] * 9 + [0.0]), np.eye(10)[0], 20.0),
    case("C2", _decay_chain([1.0, 2, 3, 4, 5, 6, 7, 8, 9, 0]), np.eye(10)[0], 20.0),
    case("C3", _heat_chain, np.eye(10)[0], 20.0),
    case("C4", _heat_chain, np.eye(51)[0], 20.0),
    case("C5", _outer_planets, OUTER_PLANETS_START, 20.0),
    *(case(f"D{i}", kepler, kepler_start(e), 20.0) for i, e in enumerate((0.1, 0.3, 0.5, 0.7, 0.9), start=1)),
    case("E1", _bessel, E1_START, 20.0),
    case("E2", van_der_pol, [2.0, 0.0], 20.0),
    case("E3", lambda t, y, args: jnp.stack([y[1], y[0] ** 3 / 6 - y[0] + 2 * jnp.sin(2.78535 * t)]), [0.0, 0], 20.0),
    case("E4", lambda t, y, args: jnp.stack([y[1], 0.032 - 0.4 * y[1] ** 2]), [30.0, 0.0], 20.0),
    case("E5", lambda t, y, args: jnp.stack([y[1], jnp.sqrt(1 + y[1] ** 2) / (25 - t)]), [0.0, 0.0], 20.0),
)
"""Hull, Enright, Fellen & Sedgwick, SIAM J. Numer. Anal. 9 (1972), 603-637."""

ARENSTORF_START = [0.994, 0.0, 0.0, -2.00158510637908252240537862224]
# Taylor series to 45 digits.
LORENZ_END = [-8.021143613317454, -11.905464749171772, 19.856374858398432]
LOTKA_VOLTERRA_END = [1.0263447675750896, 0.9096910781360407]

ARENSTORF = case("Arenstorf", arenstorf, ARENSTORF_START, 17.0652165601579625588917206249, y1=ARENSTORF_START)
PLEIADES = case("Pleiades", pleiades, PLEIADES_START, 3.0)
LORENZ = case("Lorenz", lorenz, [1.0, 0.0, 0.0], 20.0, y1=LORENZ_END)
LOTKA_VOLTERRA = case("Lotka-Volterra", lotka_volterra, [1.0, 1.0], 10.0, y1=LOTKA_VOLTERRA_END)
VAN_DER_POL = case("Van der Pol", van_der_pol, [2.0, 0.0], 10.0)
KEPLER = case("Kepler", kepler, kepler_start(0.5), 2 * np.pi, y1=kepler_start(0.5))


def smooth(t, y, args):
    """Nonlinear, non-autonomous, coupled, and solved by `smooth_solution`: for slopes."""
    return jnp.cos(t) * jnp.stack([-(y[0] ** 2), y[0] * y[1]])


def smooth_solution(t, y0, t0=0.0):
    """State at `t` from `y0` at `t0`: `y[0] = 1 / (c + sin t)` and `y[0] y[1]` is constant."""
    c = 1 / y0[0] - np.sin(t0)
    return np.array([1 / (c + np.sin(t)), y0[0] * y0[1] * (c + np.sin(t))])


SMOOTH = case("smooth", smooth, [1 / 2, 3.0], 1.5, y1=smooth_solution(1.5, [1 / 2, 3.0]))

CASES = (*DETEST, ARENSTORF, PLEIADES, LORENZ, LOTKA_VOLTERRA, VAN_DER_POL, KEPLER, SMOOTH)
