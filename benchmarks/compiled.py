"""Vector fields for numbalsoda's LSODA and DOP853, compiled by numba: what a single solve costs outside of JAX.

`available` says whether numbalsoda is installed; `solver(code, case, ...)` returns a function that solves.
"""

import numpy as np

try:
    import numba
    import numbalsoda
except ImportError:
    numba = None

MISSING = "numbalsoda is not installed: its compiled LSODA and DOP853 are left out"
MOST_STEPS = 1_000_000
RATES = np.array([0.04, 3e7, 1e4])
"""Robertson's rate constants, the only data that a field here reads."""


def available():
    return numba is not None


def fields():
    """Return the compiled field of every problem, by name."""
    cfunc = numba.cfunc(numbalsoda.lsoda_sig)

    def lorenz(t, y, dy, p):
        dy[0] = 10.0 * (y[1] - y[0])
        dy[1] = y[0] * (28.0 - y[2]) - y[1]
        dy[2] = y[0] * y[1] - 8 / 3 * y[2]

    def lotka_volterra(t, y, dy, p):
        dy[0] = 1.5 * y[0] - y[0] * y[1]
        dy[1] = -3.0 * y[1] + y[0] * y[1]

    def arenstorf(t, y, dy, p):
        mu = 0.012277471
        d1 = ((y[0] + mu) ** 2 + y[1] ** 2) ** 1.5
        d2 = ((y[0] - 1 + mu) ** 2 + y[1] ** 2) ** 1.5
        dy[0] = y[2]
        dy[1] = y[3]
        dy[2] = y[0] + 2 * y[3] - (1 - mu) * (y[0] + mu) / d1 - mu * (y[0] - 1 + mu) / d2
        dy[3] = y[1] - 2 * y[2] - (1 - mu) * y[1] / d1 - mu * y[1] / d2

    def pleiades(t, y, dy, p):
        for i in range(14):
            dy[i] = y[14 + i]
            dy[14 + i] = 0.0
        for i in range(7):
            for j in range(i):
                dx, dz = y[j] - y[i], y[7 + j] - y[7 + i]
                pull = (dx * dx + dz * dz) ** -1.5
                dy[14 + i] += (j + 1) * pull * dx
                dy[21 + i] += (j + 1) * pull * dz
                dy[14 + j] -= (i + 1) * pull * dx
                dy[21 + j] -= (i + 1) * pull * dz

    def van_der_pol(t, y, dy, p):
        dy[0] = y[1]
        dy[1] = 1000.0 * (1 - y[0] ** 2) * y[1] - y[0]

    def robertson(t, y, dy, p):
        slow, fast, back = p[0] * y[0], p[1] * y[1] ** 2, p[2] * y[1] * y[2]
        dy[0] = back - slow
        dy[1] = slow - back - fast
        dy[2] = fast

    def oregonator(t, y, dy, p):
        dy[0] = 77.27 * (y[1] + y[0] * (1 - 8.375e-6 * y[0] - y[1]))
        dy[1] = (y[2] - (1 + y[0]) * y[1]) / 77.27
        dy[2] = 0.161 * (y[0] - y[2])

    def hires(t, y, dy, p):
        bound, ended = 280.0 * y[5] * y[7], 1.81 * y[6]
        dy[0] = -1.71 * y[0] + 0.43 * y[1] + 8.32 * y[2] + 0.0007
        dy[1] = 1.71 * y[0] - 8.75 * y[1]
        dy[2] = -10.03 * y[2] + 0.43 * y[3] + 0.035 * y[4]
        dy[3] = 8.32 * y[1] + 1.71 * y[2] - 1.12 * y[3]
        dy[4] = -1.745 * y[4] + 0.43 * y[5] + 0.43 * y[6]
        dy[5] = -bound + 0.69 * y[3] + 1.71 * y[4] - 0.43 * y[5] + 0.69 * y[6]
        dy[6] = bound - ended
        dy[7] = ended - bound

    return {
        "Lorenz": cfunc(lorenz),
        "Lotka-Volterra": cfunc(lotka_volterra),
        "Arenstorf": cfunc(arenstorf),
        "Pleiades": cfunc(pleiades),
        "Van der Pol": cfunc(van_der_pol),
        "Robertson": cfunc(robertson),
        "Oregonator": cfunc(oregonator),
        "HIRES": cfunc(hires),
    }


FIELDS = fields() if available() else {}


def solver(code, name, y0, t1):
    """Return `solve(rtol, atol)` to the end state by numbalsoda's function `code`."""
    run, address, times = getattr(numbalsoda, code), FIELDS[name].address, np.array([0.0, t1])
    y0 = np.asarray(y0, float)
    return lambda rtol, atol: run(address, y0, times, RATES, rtol, atol, MOST_STEPS)[0][-1]


def robertson_loop(y0, t1, rtol, atol):
    """Return `ends(rates)`: one LSODA solve a row of rates, in a loop that is compiled."""
    lsoda, address, times = numbalsoda.lsoda, FIELDS["Robertson"].address, np.array([0.0, t1])

    @numba.njit
    def ends(rates):
        out = np.empty((len(rates), len(y0)))
        for i in range(len(rates)):
            states, _ = lsoda(address, y0, times, rates[i], rtol, atol, MOST_STEPS)
            out[i] = states[1]
        return out

    return ends
