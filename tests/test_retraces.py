"""New values of any number compile nothing, the loop carries what it must, and the field is traced once."""

from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odekit as ok

COMPILE = "/jax/core/compile/backend_compile_duration"
_listening = []


def _count(event, seconds, **_):
    if event == COMPILE:
        for counts in _listening:
            counts.append(event)


jax.monitoring.register_event_duration_secs_listener(_count)


@contextmanager
def compilations():
    """The compilations inside of the block, one entry each."""
    counts = []
    _listening.append(counts)
    try:
        yield counts
    finally:
        _listening.remove(counts)


def spiral(traces):
    """A field that notes every trace of it."""

    def f(t, y, args):
        traces.append(1)
        return args * jnp.stack([y[1], -y[0]]) - 0.1 * y

    return f


TIMES = [0.5, 1.0, 1.5, 2.0]
VALUES = {
    "y0": [jnp.array([1.0, 0.1 * k]) for k in range(4)],
    "y0_numpy": [np.array([1.0, 0.1 * k]) for k in range(4)],
    "t0": [0.0, 0.1, 0.2, 0.3],
    "t1": TIMES,
    "t1_arrays": [jnp.asarray(t) for t in TIMES],
    "rtol": [1e-4, 1e-5, 1e-6, 1e-7],
    "rtol_arrays": [jnp.asarray(10.0**-k) for k in range(4, 8)],
    "atol": [1e-4, 1e-5, 1e-6, 1e-7],
    "dt0": [0.1, 0.05, 0.02, 0.01],
    "args": [1.0, 1.1, 1.2, 1.3],
    "args_arrays": [jnp.asarray(1.0 + 0.1 * k) for k in range(4)],
    "method": [ok.Tsit5() for _ in range(4)],
    "controller": [ok.PID(10.0**-k, 1e-6, icoeff=0.3, pcoeff=0.4, dt_max=0.1 * k) for k in range(4, 8)],
    "saveat": [np.array([0.1 * k, 0.9]) for k in range(4)],
}


@pytest.mark.parametrize("name", VALUES)
def test_new_values_compile_nothing(name):
    """The first call compiles and traces; the three that follow it do neither."""
    traces = []
    f, values = spiral(traces), VALUES[name]
    plain = {"y0": jnp.array([1.0, 0.0]), "t0": 0.0, "t1": 1.0, "args": 1.0}

    def call(value):
        return jax.block_until_ready(ok.solve(f, **(plain | {name.split("_")[0]: value})))

    with compilations() as first:
        ends = [call(values[0])]
    once = len(traces)
    with compilations() as later:
        ends += [call(value) for value in values[1:]]
    assert len(first) >= 1
    assert once == 1
    assert (len(later), len(traces)) == (0, 1)
    if name not in ("method", "saveat"):
        assert len({tuple(np.asarray(end.y1)) for end in ends}) == 4


@pytest.mark.parametrize("name", ["y0", "t1", "args", "method"])
def test_new_values_compile_nothing_on_a_fixed_grid(name):
    traces = []
    f, plain = spiral(traces), {"y0": jnp.array([1.0, 0.0]), "t0": 0.0, "t1": 1.0, "args": 1.0, "n_steps": 5}
    ok.solve(f, **plain)
    once = len(traces)
    with compilations() as later:
        for value in VALUES[name]:
            jax.block_until_ready(ok.solve(f, **(plain | {name: value})))
    assert (len(later), len(traces)) == (0, once)


def test_resuming_compiles_one_program_for_any_number_of_steps():
    f = spiral([])
    state = ok.init(f, jnp.array([1.0, 0.0]), 0.0, 20.0, args=1.0)
    state = ok.step(f, state, n=3, args=1.0)
    with compilations() as later:
        for n in (1, 4, 7):
            state = ok.step(f, state, n=n, args=1.0)
    assert int(state.lanes.accepted) == 15
    assert not later


@pytest.mark.parametrize("make", [ok.Bosh3, ok.Dopri8], ids=lambda make: make.__name__)
def test_how_often_the_field_is_traced(make):
    """An adaptive solve traces it once whatever the number of stages; a fixed grid once a stage, and two to start."""
    counts = []
    for options in ({}, {"saveat": [0.5]}, {"n_steps": 5}):
        traces = []
        ok.solve(spiral(traces), jnp.array([1.0, 0.0]), 0.0, 1.0, make(), 1.0, **options)
        counts.append(len(traces))
    assert counts[:2] == [1, 1]
    assert counts[2] <= make().stages + 2


def test_a_gradient_traces_the_field_once():
    traces = []
    jax.grad(lambda y0: jnp.sum(ok.solve(spiral(traces), y0, 0.0, 1.0, args=1.0).y1))(jnp.array([1.0, 0.0]))
    assert len(traces) == 1


def loops_of(jaxpr, name):
    """All loops of one kind in a jaxpr, however deep."""
    found = []
    for eqn in jaxpr.eqns:
        found += [eqn] if eqn.primitive.name == name else []
        for value in eqn.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                found += loops_of(inner, name) if hasattr(inner, "eqns") else []
    return found


@pytest.mark.parametrize(
    ("options", "most"),
    [
        ({}, 5),  # clock, y, the last slope, counts, the shared counter
        ({"controller": ok.PID(1e-6, 1e-6, icoeff=0.3, pcoeff=0.4)}, 7),  # and two earlier errors
    ],
    ids=["plain", "PI"],
)
def test_the_loop_carries_no_more_than_it_must(options, most):
    adjoint = ok.adjoint.Forward()  # nothing is set aside for a derivative

    def run(y0):
        return ok.solve(spiral([]), y0, 0.0, 1.0, args=1.0, adjoint=adjoint, **options).y1

    (loop,) = loops_of(jax.make_jaxpr(run)(jnp.array([1.0, 0.0])).jaxpr, "while")
    params = loop.params
    carried = len(loop.invars) - params["cond_nconsts"] - params["body_nconsts"]
    assert carried <= most
