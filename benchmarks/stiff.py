"""Stiff problems: single solves, an ensemble of a thousand, and the ignition of methane by GRI-Mech 3.0.

Single: Van der Pol (mu = 1000), Robertson and the Oregonator at rtol 1e-6 to their published ends. Ensemble:
Robertson's reactions with log-normal rates (sigma 0.5) to t = 1e5, rtol 1e-6, atol 1e-10. Ignition: stoichiometric
methane and air at 1500 K and one atmosphere, 53 species and the temperature at constant pressure, rtol 1e-6, atol
1e-12, against Cantera at 1e-10. float64 throughout; the LSODA of numbalsoda is compiled, vector field included; SciPy
calls a jitted vector field and Jacobian from Python.

Where odekit loses: compile time against a solver that is compiled already, and systems so large that one factorisation
outlasts several steps of a multistep method that keeps it.
"""

import sys
import time
from functools import partial
from pathlib import Path

import compiled
import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from harness import arguments, compile_time, interleave, report
from scipy.integrate import solve_ivp

import odekit as ok

sys.path.append(str(Path(__file__).parent.parent / "tests"))  # the problems are those of the tests
from cases_stiff import OREGONATOR, ROBERTSON, VAN_DER_POL, robertson

RTOL = 1e-6
SINGLES = (VAN_DER_POL, ROBERTSON, OREGONATOR)
ENSEMBLE_END, ENSEMBLE_ATOL = 1e5, 1e-10
IGNITION_END, IGNITION_ATOL, HOT = 0.02, 1e-12, 400.0


def with_odekit(f, t1, rtol, atol, method):
    def solve(y, args):
        return ok.solve(f, y, 0.0, t1, method, args, rtol=rtol, atol=atol, max_steps=100_000, throw=False)

    return solve


def with_diffrax(f, t1, rtol, atol, solver):
    control = diffrax.PIDController(rtol=rtol, atol=atol)
    term = diffrax.ODETerm(f)

    def solve(y, args):
        return diffrax.diffeqsolve(
            term, solver, 0.0, t1, None, y, args, stepsize_controller=control, max_steps=None, throw=False
        )

    return solve


def with_scipy(f, t1, rtol, atol, name):
    field, jac = jax.jit(lambda t, y: f(t, y, None)), jax.jit(jax.jacfwd(lambda t, y: f(t, y, None), 1))
    options = {"jac": lambda t, y: np.asarray(jac(t, y)), "rtol": rtol, "atol": atol}
    return lambda y: solve_ivp(lambda t, y: np.asarray(field(t, y)), (0.0, t1), y, method=name, **options)


def single(case, repeats, slow):
    y0, atol = jnp.asarray(case.y0), case.size * RTOL
    jitted = {
        "odekit Rodas5P": with_odekit(case.f, case.t1, RTOL, atol, ok.Rodas5P()),
        "diffrax Kvaerno5": with_diffrax(case.f, case.t1, RTOL, atol, diffrax.Kvaerno5()),
    }
    ends = {
        "odekit Rodas5P": partial(jax.jit(lambda y: jitted["odekit Rodas5P"](y, None).y1), y0),
        "diffrax Kvaerno5": partial(jax.jit(lambda y: jitted["diffrax Kvaerno5"](y, None).ys[0]), y0),
    }
    if compiled.available():
        ends["numbalsoda lsoda"] = partial(compiled.solver("lsoda", case.name, case.y0, case.t1), RTOL, atol)
    best = interleave(ends, repeats)
    if slow:
        host = {f"scipy {name}": with_scipy(case.f, case.t1, RTOL, atol, name) for name in ("LSODA", "BDF", "Radau")}
        host = {name: lambda fn=fn: fn(case.y0).y[:, -1] for name, fn in host.items()}
        best |= interleave(host, 1)
        ends |= host
    errors = {name: case.error(fn()) for name, fn in ends.items()}
    return [
        {
            "load": case.name,
            "peer": name,
            "ms": 1e3 * best[name],
            "odekit is faster by": best[name] / best["odekit Rodas5P"],
            "error": errors[name],
            "compile s": compile_time(jitted[name], y0, None) if slow and name in jitted else None,
        }
        for name in best
    ]


def ensemble(lanes, repeats):
    y0 = jnp.asarray(ROBERTSON.y0)
    rates = compiled.RATES * np.exp(0.5 * np.random.default_rng(0).normal(size=(lanes, 3)))
    peers = {
        "odekit Rodas5P": with_odekit(robertson, ENSEMBLE_END, RTOL, ENSEMBLE_ATOL, ok.Rodas5P()),
        "diffrax Kvaerno5": with_diffrax(robertson, ENSEMBLE_END, RTOL, ENSEMBLE_ATOL, diffrax.Kvaerno5()),
    }
    read = {"odekit Rodas5P": lambda sol: sol.y1, "diffrax Kvaerno5": lambda sol: sol.ys[0]}
    many = {name: jax.jit(jax.vmap(lambda p, n=name, s=fn: read[n](s(y0, p)))) for name, fn in peers.items()}
    fns = {name: partial(fn, jnp.asarray(rates)) for name, fn in many.items()}
    if compiled.available():
        loop = compiled.robertson_loop(ROBERTSON.y0, ENSEMBLE_END, RTOL, ENSEMBLE_ATOL)
        fns["numbalsoda lsoda"] = partial(loop, rates)
    best = interleave(fns, repeats)
    reference = with_odekit(robertson, ENSEMBLE_END, 1e-10, 1e-20, ok.Rodas5P())
    exact = np.asarray(jax.jit(jax.vmap(lambda p: reference(y0, p).y1))(jnp.asarray(rates[:64])))
    return [
        {
            "load": f"Robertson, {lanes} lanes",
            "peer": name,
            "ms": 1e3 * best[name],
            "odekit is faster by": best[name] / best["odekit Rodas5P"],
            "error": float(np.max(np.abs(np.asarray(fn())[:64] / exact - 1))),
        }
        for name, fn in fns.items()
    ]


def ignition(slow):
    """Seconds to the burnt state; peers that take minutes run once, and only when `slow`."""
    import cantera
    import gri

    mechanism, gas = gri.read(), cantera.Solution("gri30.yaml")
    gas.TPX = 1500.0, cantera.one_atm, "CH4:1, O2:2, N2:7.52"
    y0 = np.r_[gas.T, gas.Y]
    field = gri.reactor(mechanism, cantera.one_atm)
    print(f"rates against Cantera's: {rates_error(mechanism):.1e} of what is made and used up")
    exact, delay = by_cantera(gas)
    tools = (IGNITION_END, RTOL, IGNITION_ATOL)
    with_rodas = with_odekit(field, *tools, ok.Rodas5P())
    with_kvaerno = with_diffrax(field, *tools, diffrax.Kvaerno5())

    def rodas(y):
        sol = with_rodas(y, None)
        return sol.y1, sol.stats["accepted"] + sol.stats["rejected"]

    def kvaerno(y):
        sol = with_kvaerno(y, None)
        return sol.ys[0], sol.stats["num_steps"]

    rows = [once("odekit Rodas5P", rodas, y0, exact)]
    bdf = with_scipy(field, *tools, "BDF")
    bdf(y0) if slow else None  # the first run compiles its functions
    begin = time.perf_counter()
    run = bdf(y0)
    rows.append(row("scipy BDF", time.perf_counter() - begin, None, len(run.t) - 1, run.y[:, -1], exact))
    if slow:
        rows.append(once("diffrax Kvaerno5", kvaerno, y0, exact))
    for entry in rows:
        entry["odekit is faster by"] = entry["ms"] / rows[0]["ms"]
    rows[0]["error of the delay"] = ignition_delay(field, y0, delay) / delay - 1
    return rows


def once(name, fn, y0, exact):
    """Compile, then time the better of two runs (one, where it takes more than ten seconds)."""
    begin = time.perf_counter()
    program = jax.jit(fn).lower(jnp.asarray(y0)).compile()
    compiling, best = time.perf_counter() - begin, np.inf
    for _ in range(3):
        begin = time.perf_counter()
        end, steps = jax.block_until_ready(program(jnp.asarray(y0)))
        best = min(best, time.perf_counter() - begin)
        if best > 10:
            break
    return row(name, best, compiling, int(steps), end, exact)


def row(name, seconds, compiling, steps, end, exact):
    error = float(np.max(np.abs(np.asarray(end) - exact) / (np.abs(exact) + 1e-8)))
    return {
        "load": "GRI-Mech ignition", "peer": name, "ms": 1e3 * seconds, "error": error, "compile s": compiling,
        "steps": steps,
    }  # fmt: skip


def rates_error(mechanism):
    """Largest difference of what is made, relative to what is made and used up, in a burning mixture."""
    import cantera
    import gri

    gas, temperature = cantera.Solution("gri30.yaml"), 1700.0
    gas.TPX = temperature, cantera.one_atm, np.random.default_rng(0).uniform(size=len(mechanism.names)) ** 4
    forward, reverse = gri.progress(mechanism, temperature, gas.concentrations * 1e-3)
    gross = np.abs(mechanism.change) @ np.asarray(forward + reverse)
    difference = mechanism.change @ np.asarray(forward - reverse) - 1e-3 * gas.net_production_rates
    return float(np.max(np.abs(difference) / np.where(gross > 0, gross, 1)))


def by_cantera(gas):
    """Return Cantera's end state at a tight tolerance, and the time at which it is `HOT` kelvin warmer."""
    import cantera

    start = gas.T
    reactor = cantera.IdealGasConstPressureReactor(gas, clone=False)
    net = cantera.ReactorNet([reactor])
    net.rtol, net.atol = 1e-10, 1e-18
    before = after = (0.0, start)
    while after[1] < start + HOT:
        net.step()
        before, after = after, (net.time, reactor.T)
    delay = float(np.interp(start + HOT, [before[1], after[1]], [before[0], after[0]]))
    net.advance(IGNITION_END)
    return np.r_[reactor.T, reactor.phase.Y], delay


def ignition_delay(field, y0, about):
    """Return the time at which odekit's own interpolant is `HOT` kelvin warmer."""
    ts = about * jnp.linspace(0.99, 1.01, 41)
    solve = partial(ok.solve, field, jnp.asarray(y0), 0.0, 1.02 * about, ok.Rodas5P(), saveat=ts)
    temperatures = solve(rtol=RTOL, atol=IGNITION_ATOL).ys[:, 0]
    return float(np.interp(y0[0] + HOT, np.asarray(temperatures), np.asarray(ts)))


def main():
    jax.config.update("jax_enable_x64", True)
    options = arguments(__doc__.splitlines()[0])
    slow = not options.quick
    if not compiled.available():
        print(compiled.MISSING)
    rows = [row for case in SINGLES for row in single(case, 20 if slow else 3, slow)]
    rows += ensemble(1024 if slow else 64, 3)
    try:
        rows += ignition(slow)
    except ImportError as missing:
        print(f"{missing}: the ignition of methane is left out; install cantera")
    report("stiff", rows, options.out, dtype="float64", rtol=RTOL)


if __name__ == "__main__":
    main()
