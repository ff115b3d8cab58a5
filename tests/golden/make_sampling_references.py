"""Solve the probability flow of the planar mixture with SciPy at tight tolerance; writes sampling_references.json.

Run from the repository root: `PYTHONPATH=.:tests python tests/golden/make_sampling_references.py`. In half log
signal-to-noise ratio where alpha does not vanish, `d(x/alpha)/dlam = -exp(-lam) noise`; else in time.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
from cases_sampling import ENDS, GOLDEN, mixture, starts
from scipy.integrate import solve_ivp

jax.config.update("jax_enable_x64", True)


def flow_in_lam(schedule, x, t0, t1):
    model = mixture(schedule)

    @jax.jit
    def slope(lam, y):
        t = schedule.t_of_lam(jnp.asarray(lam))
        return -jnp.exp(-lam) * model.noise(schedule.alpha(t) * y.reshape(x.shape), t).ravel()

    return schedule.alpha(t1) * solve(slope, schedule.lam(t0), schedule.lam(t1), x / schedule.alpha(t0))


def flow_in_time(schedule, x, t0, t1):
    model = mixture(schedule)
    slope = jax.jit(lambda t, x_flat: model.velocity(x_flat.reshape(x.shape), t).ravel())
    return solve(slope, t0, t1, x)


def solve(slope, s0, s1, x):
    sol = solve_ivp(lambda s, y: np.asarray(slope(s, y)), (s0, s1), x.ravel(), "DOP853", rtol=1e-12, atol=1e-13)
    return sol.y[:, -1].reshape(x.shape)


if __name__ == "__main__":
    out = {}
    for case, (schedule, t0, t1) in ENDS.items():
        flow = flow_in_time if case.startswith("FM") else flow_in_lam
        out[case] = flow(schedule, starts(case), t0, t1).tolist()
    GOLDEN.write_text(json.dumps(out) + "\n")
