"""One adaptive solve: run time, compile time and error against tolerance.

Lorenz (10, 28, 8/3) from (1, 0, 0) to t = 20, float64, rtol = atol; errors against a 45-digit Taylor solution. Each
solve is one jitted call from y0 to the end value; SciPy calls a jitted vector field; numbalsoda's codes are compiled,
vector field included.

Where odekit loses: against compiled ODE codes (LSODA, DOP853 through numba) at one small system, and wherever a
single solve is made only once, since compilation costs a thousand times the run.
"""

from functools import partial

import compiled
import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from harness import arguments, compile_time, interleave, report
from jax.experimental.ode import odeint
from scipy.integrate import solve_ivp

import odekit as ok

Y0 = (1.0, 0.0, 0.0)
T1 = 20.0
END = np.array([-8.021143613317454, -11.905464749171772, 19.856374858398432])


def lorenz(t, y, args):
    return jnp.stack([10.0 * (y[1] - y[0]), y[0] * (28.0 - y[2]) - y[1], y[0] * y[1] - 8 / 3 * y[2]])


def with_odekit(method):
    return lambda tol: (
        lambda y: ok.solve(lorenz, y, 0.0, T1, method, rtol=tol, atol=tol, max_steps=100_000, throw=False).y1
    )


def with_diffrax(method):
    def make(tol):
        control = diffrax.PIDController(rtol=tol, atol=tol)
        term = diffrax.ODETerm(lorenz)
        return lambda y: diffrax.diffeqsolve(
            term, method, 0.0, T1, None, y, stepsize_controller=control, max_steps=None, throw=False
        ).ys[0]

    return make


def with_odeint(tol):
    return lambda y: odeint(lambda y, t: lorenz(t, y, None), y, jnp.array([0.0, T1]), rtol=tol, atol=tol)[-1]


def with_scipy(name):
    field = jax.jit(lambda t, y: lorenz(t, y, None))

    def make(tol):
        call = lambda t, y: np.asarray(field(t, y))  # noqa: E731
        return lambda y: solve_ivp(call, (0.0, T1), np.asarray(y), method=name, rtol=tol, atol=tol).y[:, -1]

    return make


JITTED = {
    "odekit Tsit5": with_odekit(ok.Tsit5()),
    "odekit Dopri5": with_odekit(ok.Dopri5()),
    "odekit Dopri8": with_odekit(ok.Dopri8()),
    "odekit DOP853": with_odekit(ok.DOP853()),
    "diffrax Tsit5": with_diffrax(diffrax.Tsit5()),
    "diffrax Dopri5": with_diffrax(diffrax.Dopri5()),
    "diffrax Dopri8": with_diffrax(diffrax.Dopri8()),
    "jax.experimental odeint": with_odeint,
}
HOST = {"scipy RK45": with_scipy("RK45"), "scipy DOP853": with_scipy("DOP853")}


def measure(tol, repeats, compiling, host):
    y0 = jnp.asarray(Y0)
    fns = {name: partial(jax.jit(make(tol)), y0) for name, make in JITTED.items()}
    if compiled.available():
        codes = ("dop853", "lsoda")
        fns |= {f"numbalsoda {code}": partial(compiled.solver(code, "Lorenz", Y0, T1), tol, tol) for code in codes}
    best = interleave(fns, repeats)
    ends = {name: fn() for name, fn in fns.items()}
    if host:
        slow = {name: partial(make(tol), y0) for name, make in HOST.items()}
        best |= interleave(slow, 3)
        ends |= {name: fn() for name, fn in slow.items()}
    return [
        {
            "peer": name,
            "tol": tol,
            "ms": 1e3 * best[name],
            "diffrax Dopri5 / this": best["diffrax Dopri5"] / best[name],
            "error": float(np.max(np.abs(np.asarray(ends[name]) - END)) / np.max(np.abs(END))),
            "compile s": compile_time(JITTED[name](tol), y0) if compiling and name in JITTED else None,
        }
        for name in best
    ]


def main():
    jax.config.update("jax_enable_x64", True)
    options = arguments(__doc__.splitlines()[0])
    if not compiled.available():
        print(compiled.MISSING)
    tolerances = (1e-8,) if options.quick else (1e-4, 1e-6, 1e-8, 1e-10)
    repeats = 3 if options.quick else 50
    rows = [row for tol in tolerances for row in measure(tol, repeats, tol == 1e-8, tol == 1e-8 and not options.quick)]
    report("ode_single", rows, options.out, dtype="float64", problem="Lorenz", t1=T1)


if __name__ == "__main__":
    main()
