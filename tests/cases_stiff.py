"""Stiff problems with published end values, as plain data; tests and benchmarks share them.

Mazzia & Magherini, Test Set for Initial Value Problem Solvers, release 2.4, 2008; Hairer & Wanner, Solving ODEs II,
1996, IV.10. `golden/stiff_references.json`, made by the script beside it, has what an independent code finds for the
ends that are not published in full, and the steps it takes.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

GOLDEN = Path(__file__).parent / "golden" / "stiff_references.json"
REFERENCES = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {"ends": {}, "steps": {}}


class Stiff(NamedTuple):
    """Integrate `f` from `(0, y0)`; the state at `t1` is `y1`.

    Attributes:
        size: what matters in the smallest component: the absolute tolerance is this times `rtol`.
        known: the components of `y1` that are known.
        pieces: ends and arguments of the pieces between jumps of the vector field.
    """

    name: str
    f: Callable
    y0: np.ndarray
    t1: float
    y1: np.ndarray
    size: float
    known: Sequence[int]
    pieces: tuple[tuple[float, Any], ...]

    def error(self, y):
        """Largest relative error of the known components."""
        known = list(self.known)
        return float(np.max(np.abs(np.asarray(y)[known] / self.y1[known] - 1)))


def stiff(name, f, y0, t1, y1=None, size=1e-3, known=None, pieces=None):
    y0 = np.asarray(y0, float)
    end = np.asarray(REFERENCES["ends"].get(name, np.nan) if y1 is None else y1, float)  # NaN only while they are made
    return Stiff(name, f, y0, t1, end, size, known or range(y0.size), pieces or ((t1, None),))


def robertson(t, y, args):
    """Three reactions; the rate constants may be given."""
    k1, k2, k3 = (0.04, 3e7, 1e4) if args is None else args
    slow, fast, back = k1 * y[0], k2 * y[1] ** 2, k3 * y[1] * y[2]
    return jnp.stack([back - slow, slow - back - fast, fast])


def van_der_pol(t, y, args):
    """The oscillator of stiffness mu = 1000, in its own time."""
    mu = 1000.0 if args is None else args
    return jnp.stack([y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]])


def van_der_pol_scaled(t, y, args):
    """The same in the time in which a period is of length 1: eps = 1 / mu^2."""
    eps = 1e-6 if args is None else args
    return jnp.stack([y[1], ((1 - y[0] ** 2) * y[1] - y[0]) / eps])


def oregonator(t, y, args):
    """Belousov-Zhabotinsky reaction."""
    s, w, q = 77.27, 0.161, 8.375e-6
    return jnp.stack([s * (y[1] + y[0] * (1 - q * y[0] - y[1])), (y[2] - (1 + y[0]) * y[1]) / s, w * (y[0] - y[2])])


def hires(t, y, args):
    """High irradiance responses of photomorphogenesis, eight species."""
    y1, y2, y3, y4, y5, y6, y7, y8 = y
    bound, ended = 280.0 * y6 * y8, 1.81 * y7
    return jnp.stack(
        [
            -1.71 * y1 + 0.43 * y2 + 8.32 * y3 + 0.0007,
            1.71 * y1 - 8.75 * y2,
            -10.03 * y3 + 0.43 * y4 + 0.035 * y5,
            8.32 * y2 + 1.71 * y3 - 1.12 * y4,
            -1.745 * y5 + 0.43 * y6 + 0.43 * y7,
            -bound + 0.69 * y4 + 1.71 * y5 - 0.43 * y6 + 0.69 * y7,
            bound - ended,
            -bound + ended,
        ]
    )


def e5(t, y, args):
    """Four species whose amounts span 280 powers of ten; the second is the sum of the last two, and left out.

    With four equations rounding decides the end: that sum is a difference of numbers 1e15 times as large.
    """
    a, b, c, m = 7.89e-10, 1.1e7, 1.13e3, 1e6
    born, taken, back = a * y[0], b * y[0] * y[1], c * y[2]
    met = m * c * (y[1] + y[2]) * y[1]
    return jnp.stack([-born - taken, born - taken - met + back, taken - back])


# Air pollution: rate constants, reacting species, and what each reaction takes and makes (species count from 1).
POLLUTION_RATES = (
    *(0.35, 26.6, 1.23e4, 8.6e-4, 8.2e-4, 1.5e4, 1.3e-4, 2.4e4, 1.65e4, 9e3, 0.022, 1.2e4, 1.88),
    *(1.63e4, 4.8e6, 3.5e-4, 0.0175, 1e8, 4.44e11, 1.24e3, 2.1, 5.78, 0.0474, 1.78e3, 3.12),
)
POLLUTION_REACTIONS = (
    *(((1,), (2, 3)), ((2, 4), (1,)), ((5, 2), (1, 6)), ((7,), (5, 5, 8)), ((7,), (8,))),
    *(((7, 6), (5, 8)), ((9,), (5, 8, 10)), ((9, 6), (11,)), ((11, 2), (10, 1, 12)), ((11, 1), (13,))),
    *(((13,), (11, 1)), ((10, 2), (14, 1)), ((14,), (7, 5)), ((1, 6), (15,)), ((3,), (4,))),
    *(((4,), (16,)), ((4,), (3,)), ((16,), (6, 6)), ((16,), (3,)), ((17, 6), (18, 5))),
    *(((19,), (2,)), ((19,), (1, 3)), ((1, 4), (19,)), ((19, 1), (20,)), ((20,), (1, 19))),
)
POLLUTION_START = {2: 0.2, 4: 0.04, 7: 0.1, 8: 0.3, 9: 0.01, 17: 0.007}


def _pollution_numbers():
    change = np.zeros((20, 25))
    for j, (taken, made) in enumerate(POLLUTION_REACTIONS):
        for i in taken:
            change[i - 1, j] -= 1
        for i in made:
            change[i - 1, j] += 1
    first = np.array([taken[0] - 1 for taken, _ in POLLUTION_REACTIONS])
    second = np.array([taken[1] - 1 if len(taken) > 1 else 20 for taken, _ in POLLUTION_REACTIONS])
    return change, first, second


CHANGE, FIRST, SECOND = _pollution_numbers()


def pollution(t, y, args):
    """Twenty-five reactions of twenty species in the air."""
    padded = jnp.concatenate([y, jnp.ones_like(y[:1])])
    rates = jnp.asarray(POLLUTION_RATES, y.dtype) * y[FIRST] * padded[SECOND]
    return jnp.sum(jnp.asarray(CHANGE, y.dtype) * rates[None, :], axis=1)


def medical_akzo(t, y, args):
    """Antibodies diffusing into a tumour and bound there: 200 points of two species; `args` is what is fed."""
    n, k, c = 200, 100.0, 4.0
    u, v = y[0::2], y[1::2]
    left = jnp.full_like(u[:1], args)
    below, above = jnp.concatenate([left, u[:-1]]), jnp.concatenate([u[1:], u[-1:]])
    z = jnp.arange(1, n + 1).astype(y.dtype) / n - 1
    drift = 2 * z**3 / c**2 * (above - below) * (n / 2)
    spread = z**4 / c**2 * (below - 2 * u + above) * n**2
    bound = k * u * v
    return jnp.stack([drift + spread - bound, -bound], axis=1).reshape(-1)


AKZO_START = np.tile([0.0, 1.0], 200)
VDP_END = np.array([1.706167732170483, -0.8928097010247975])
ROBERTSON_END = [0.2083340149701255e-7, 0.8333360770334713e-13, 0.9999999791665050]
OREGONATOR_END = [1.000814870318523, 1228.178521549917, 132.0554942846706]
HIRES_END = [
    *(0.7371312573325668e-3, 0.1442485726316185e-3, 0.5888729740967575e-4, 0.1175651343283149e-2),
    *(0.2386356198831331e-2, 0.6238968252742796e-2, 0.2849998395185769e-2, 0.2850001604814231e-2),
]

ROBERTSON = stiff("Robertson", robertson, [1.0, 0, 0], 1e11, ROBERTSON_END, size=1e-8)
VAN_DER_POL = stiff("Van der Pol", van_der_pol, [2.0, 0], 2000.0, VDP_END * [1, 1e-3])
VAN_DER_POL_SCALED = stiff("Van der Pol, scaled", van_der_pol_scaled, [2.0, 0], 2.0, VDP_END)
OREGONATOR = stiff("Oregonator", oregonator, [1.0, 2, 3], 360.0, OREGONATOR_END)
HIRES = stiff("HIRES", hires, [1.0, *[0.0] * 6, 0.0057], 321.8122, HIRES_END, size=1e-4)
POLLUTION = stiff("Pollution", pollution, [POLLUTION_START.get(i, 0.0) for i in range(1, 21)], 60.0, size=1e-6)
E5 = stiff("E5", e5, [1.76e-3, 0, 0], 1e13, size=1e-18, known=(1,))
MEDICAL_AKZO = stiff(
    "Medical Akzo", medical_akzo, AKZO_START, 20.0, size=1e-4, known=(0, 198, 199), pieces=((5.0, 2.0), (20.0, 0.0))
)
STIFF = (ROBERTSON, VAN_DER_POL, VAN_DER_POL_SCALED, OREGONATOR, HIRES, POLLUTION, E5, MEDICAL_AKZO)
