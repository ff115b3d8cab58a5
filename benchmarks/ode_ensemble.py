"""Ensembles of adaptive solves under `jax.vmap`: odekit, diffrax, and a compiled SIMD loop in C as the mark.

Forward: Lorenz (10, 28, 8/3), y0 = (1, 0, 0) + 1e-3 N(0, 1), t in [0, 20], Dormand-Prince 5(4), elementary controller,
rtol = atol = 1e-8, float64: about 1,700 attempted steps a lane; for 1,024 lanes also with 100 equidistant save times.
Gradient: Lotka-Volterra, 1,024 lanes, t in [0, 20], tolerance 1e-6, four shared parameters, reverse mode through each
library's default adjoint with the same `max_steps`: 512 (the solves take 210 attempts) and 4,096 (what both take by
default).

Beside them, where they are installed, gradsolve (its explicit engine, Tsit5) and torchode (Dormand-Prince 5(4)).

On a processor with AVX-512 every peer is allowed 512-bit vectors: gcc by a flag, JAX programs by a compiler option.

Where odekit loses: against the C loop, on any machine; and at a handful of lanes compilation dominates everything.
"""

import ctypes
import shutil
import subprocess
import tempfile
from functools import partial
from pathlib import Path

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from harness import arguments, compile_time, interleave, report

import odekit as ok

T1, TOL, DT0 = 20.0, 1e-8, 1e-3
GRADIENT_TOL = 1e-6
SAVES = 100


def lorenz(t, y, args):
    return jnp.stack([10.0 * (y[1] - y[0]), y[0] * (28.0 - y[2]) - y[1], y[0] * y[1] - 8 / 3 * y[2]])


def lotka_volterra(t, y, p):
    return jnp.stack([p[0] * y[0] - p[1] * y[0] * y[1], -p[2] * y[1] + p[3] * y[0] * y[1]])


def odekit_solve(f, y0, args, method, tol, max_steps, dt0=None, ts=None):
    options = {"rtol": tol, "atol": tol, "dt0": dt0, "max_steps": max_steps, "throw": False}
    sol = ok.solve(f, y0, 0.0, T1, method, args, saveat=ts, **options)
    return sol.y1 if ts is None else sol.ys


def diffrax_solve(f, y0, args, method, tol, max_steps, dt0=None, ts=None):
    control = diffrax.PIDController(rtol=tol, atol=tol)
    saveat = diffrax.SaveAt(t1=True) if ts is None else diffrax.SaveAt(ts=ts)
    options = {"saveat": saveat, "stepsize_controller": control, "max_steps": max_steps, "throw": False}
    sol = diffrax.diffeqsolve(diffrax.ODETerm(f), method, 0.0, T1, dt0, y0, args, **options)
    return sol.ys[0] if ts is None else sol.ys


def build_c():
    """Return the compiled loop of lanes.c, or None and why not."""
    if shutil.which("gcc") is None:
        return None, "no gcc on this machine: the compiled C loop is left out"
    target = Path(tempfile.mkdtemp()) / "lanes.so"
    command = ["gcc", "-O3", "-march=native", "-ffast-math", "-shared", "-fPIC", "-o", str(target)]
    source = [str(Path(__file__).with_name("lanes.c")), "-lm"]
    for extra in (["-mprefer-vector-width=512"], []):  # gcc prefers 256 bits on some AVX-512 machines
        done = subprocess.run([*command, *extra, *source], capture_output=True, check=False)
        if done.returncode == 0:
            library = ctypes.CDLL(str(target))
            library.lorenz.restype = ctypes.c_long
            library.lorenz.argtypes = [ctypes.c_void_p, ctypes.c_long] + [ctypes.c_double] * 4
            return library, None
    return None, f"gcc refused lanes.c, so the compiled C loop is left out: {done.stderr.decode()[-200:]}"


def c_solve(library, y0):
    y = np.ascontiguousarray(y0.T)
    library.lorenz(y.ctypes.data, y.shape[1], T1, DT0, TOL, TOL)
    return y.T


def wide_vectors():
    """Return the compiler options for 512-bit vectors, none where the processor has none."""
    info = Path("/proc/cpuinfo")
    return {"xla_cpu_prefer_vector_width": 512} if info.exists() and "avx512f" in info.read_text() else {}


class Lorenz:
    """The load as gradsolve takes it."""

    name, dim, t0, t1, is_stiff = "lorenz-20", 3, 0.0, T1, False

    def f_jax(self, t, y, params):
        return lorenz(t, y, params)


def gradsolve_peer(y0):
    try:
        import gradsolve
    except ImportError:
        print("gradsolve is not installed: left out")
        return {}
    y, params = np.asarray(y0), np.zeros((len(y0), 1))
    return {
        "gradsolve": lambda: gradsolve.solve(Lorenz(), y, params, engine="tsit5_replay", rtol=TOL, atol=TOL).y_final
    }


def torchode_peer(y0):
    try:
        import torch
        import torchode
    except ImportError:
        print("torchode is not installed: left out")
        return {}
    torch.set_num_threads(1)

    def field(t, y):
        a, b, c = y[:, 0], y[:, 1], y[:, 2]
        return torch.stack([10.0 * (b - a), a * (28.0 - c) - b, a * b - 8 / 3 * c], dim=1)

    term = torchode.ODETerm(field)
    control = torchode.IntegralController(atol=TOL, rtol=TOL, term=term)
    solver = torchode.AutoDiffAdjoint(torchode.Dopri5(term=term), control)
    y = torch.tensor(np.asarray(y0))
    ends = torch.tensor([[0.0, T1]], dtype=y.dtype).repeat(len(y), 1)

    def solve():
        with torch.no_grad():
            return solver.solve(torchode.InitialValueProblem(y0=y, t_eval=ends)).ys[:, -1].numpy()

    return {"torchode": solve}


def lorenz_peers(ts=None):
    return {
        "odekit": jax.vmap(lambda y: odekit_solve(lorenz, y, None, ok.Dopri5(), TOL, 4096, DT0, ts)),
        "diffrax": jax.vmap(lambda y: diffrax_solve(lorenz, y, None, diffrax.Dopri5(), TOL, None, DT0, ts)),
    }


def lorenz_starts(lanes):
    return jnp.array([1.0, 0.0, 0.0]) + 1e-3 * jax.random.normal(jax.random.key(0), (lanes, 3))


def forward(lanes, repeats, library, others):
    y0, peers = lorenz_starts(lanes), lorenz_peers()
    options = wide_vectors()
    fns = {name: partial(jax.jit(fn, compiler_options=options), y0) for name, fn in peers.items()}
    if others:
        fns |= gradsolve_peer(y0) | torchode_peer(y0)
    if library is not None:
        fns["C, SIMD"] = partial(c_solve, library, np.asarray(y0))
    best = interleave(fns, repeats)
    of_c = {name: best[name] / best["C, SIMD"] if library is not None else None for name in fns}
    return results(fns, peers, best, y0, {"of C": of_c})


def results(fns, peers, best, y0, columns, ts=None):
    """Return a row for each of `fns`, with further `columns` by name; errors are those of 64 lanes."""
    tight = jax.jit(jax.vmap(lambda y: odekit_solve(lorenz, y, None, ok.Dopri8(), 1e-13, 4096, ts=ts)))
    reference = np.asarray(tight(y0[:64]))
    return [
        {
            "peer": name,
            "lanes": len(y0),
            "ms": 1e3 * best[name],
            "odekit is faster by": best[name] / best["odekit"],
            **{column: values[name] for column, values in columns.items()},
            "compile s": compile_time(peers[name], y0) if name in peers else None,
            "median error": median_error(fn(), reference),
        }
        for name, fn in fns.items()
    ]


def median_error(states, reference):
    difference = np.abs(np.asarray(states)[: len(reference)] - reference)
    return float(np.median(np.max(difference.reshape(len(reference), -1), axis=1)))


def saved(lanes, repeats):
    y0, ts = lorenz_starts(lanes), jnp.linspace(0.0, T1, SAVES)
    peers, options = lorenz_peers(ts), wide_vectors()
    fns = {name: partial(jax.jit(fn, compiler_options=options), y0) for name, fn in peers.items()}
    ends = {f"{name}, end": jax.jit(fn, compiler_options=options) for name, fn in lorenz_peers().items()}
    best = interleave(fns | {name: partial(fn, y0) for name, fn in ends.items()}, repeats)
    of_end = {name: best[name] / best[f"{name}, end"] for name in fns}
    return results(fns, peers, best, y0, {"of the end alone": of_end}, ts)


def gradient(lanes, max_steps, repeats):
    y0 = jnp.array([1.0, 1.0]) + 0.1 * jax.random.uniform(jax.random.key(1), (lanes, 2))
    p = jnp.array([1.5, 1.0, 3.0, 1.0])

    def loss(solve, method):
        def total(p):
            ends = jax.vmap(lambda y: solve(lotka_volterra, y, p, method, GRADIENT_TOL, max_steps))(y0)
            return jnp.sum(ends) / lanes

        return total

    losses = {"odekit": loss(odekit_solve, ok.Dopri5()), "diffrax": loss(diffrax_solve, diffrax.Dopri5())}
    grads = {name: jax.jit(jax.grad(fn)) for name, fn in losses.items()}
    best = interleave({name: partial(fn, p) for name, fn in grads.items()}, repeats)
    tight = jax.jit(loss(lambda f, y, p, method, tol, steps: odekit_solve(f, y, p, method, 1e-12, 4096), ok.Dopri8()))
    reference = np.array([(tight(p.at[i].add(1e-5)) - tight(p.at[i].add(-1e-5))) / 2e-5 for i in range(4)])
    return [
        {
            "peer": name,
            "lanes": lanes,
            "max steps": max_steps,
            "ms": 1e3 * best[name],
            "odekit is faster by": best[name] / best["odekit"],
            "compile s": compile_time(jax.grad(losses[name]), p),
            "relative error": float(np.max(np.abs(fn(p) - reference)) / np.max(np.abs(reference))),
        }
        for name, fn in grads.items()
    ]


def main():
    jax.config.update("jax_enable_x64", True)
    options = arguments(__doc__.splitlines()[0])
    library, why_not = build_c()
    if why_not:
        print(why_not)
    sizes = (64,) if options.quick else (1024, 10240)
    rows = [
        {"load": "Lorenz-20 forward", **row} for lanes in sizes for row in forward(lanes, 3, library, lanes <= 1024)
    ]
    rows += [{"load": f"Lorenz-20, {SAVES} save times", **row} for row in saved(sizes[0], 3)]
    gradients = ((64, 512),) if options.quick else ((1024, 512), (1024, 4096))
    rows += [{"load": "Lotka-Volterra gradient", **row} for sizes in gradients for row in gradient(*sizes, 5)]
    report("ode_ensemble", rows, options.out, dtype="float64", t1=T1, tol=TOL, gradient_tol=GRADIENT_TOL)


if __name__ == "__main__":
    main()
