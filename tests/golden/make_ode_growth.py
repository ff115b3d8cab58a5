"""Write ode_growth.json: by how much each reference problem enlarges an error until its end.

The growth is the largest spectral norm of `S(t1)^-1 F(t1, s) S(s)` over 16 times s, where F is the derivative of the
end with respect to the state at s and S = 1 + |y| is the scale in which rtol = atol measures errors. A solver that errs
by one tolerance at s can end that many tolerances off, whatever it does afterwards.

Run from the root of the repository: `python tests/golden/make_ode_growth.py`.
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np
from scipy.integrate import solve_ivp

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
jax.config.update("jax_enable_x64", True)

import cases  # noqa: E402  it needs the path


def growth(case):
    n = case.y0.size
    field = jax.jit(lambda t, y: case.f(t, y, None))
    jacobian = jax.jit(jax.jacfwd(lambda y, t: case.f(t, y, None)))

    def variational(t, z):
        y, f = z[:n], z[n:].reshape(n, n)
        return np.concatenate([np.asarray(field(t, y)), (np.asarray(jacobian(y, t)) @ f).ravel()])

    times = np.linspace(case.t0, case.t1, 17)[:-1]
    states = solve_ivp(field, (case.t0, case.t1), case.y0, method="DOP853", rtol=1e-12, atol=1e-13, t_eval=times).y.T
    norms = []
    for s, y in zip(times, states, strict=True):
        z = np.concatenate([y, np.eye(n).ravel()])
        end = solve_ivp(variational, (s, case.t1), z, method="DOP853", rtol=1e-8, atol=1e-8).y[n:, -1].reshape(n, n)
        norms.append(np.linalg.norm(end * (1 + np.abs(y)) / (1 + np.abs(case.y1))[:, None], 2))
    return float(f"{max(1.0, *norms):.2g}")


if __name__ == "__main__":
    table = {case.name: growth(case) for case in (*cases.DETEST, cases.ARENSTORF, cases.PLEIADES)}
    (HERE / "ode_growth.json").write_text(json.dumps(table, indent=2) + "\n")
