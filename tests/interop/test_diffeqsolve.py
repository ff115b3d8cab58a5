"""diffeqsolve beside diffrax.diffeqsolve: the same arguments, the same steps, the same solution."""

import inspect
import logging
import warnings

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odekit as ok
from odekit.interop import diffrax as door

PID = diffrax.PIDController(rtol=1e-6, atol=1e-8)


def field(t, y, args):
    return jnp.stack([y[1], -args * y[0] + 0.1 * jnp.sin(t) * y[1]])


TERM, Y0 = diffrax.ODETerm(field), jnp.array([1.0, 0.5])


def both(solver, t1=1.3, dt0=0.1, y0=Y0, term=TERM, **options):
    """Return our solution, which our loop must have made, and diffrax's."""
    t0 = options.pop("t0", 0.0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Complex dtype")
        theirs = diffrax.diffeqsolve(term, solver, t0, t1, dt0, y0, 4.0, **options)
    return ok.diffeqsolve(term, solver, t0, t1, dt0, y0, 4.0, engine="odekit", **options), theirs


def close(a, b, rtol=1e-9, atol=1e-12):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.shape == y.shape
        assert x.dtype == y.dtype
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


def same_steps(ours, theirs):
    for name in ("num_steps", "num_accepted_steps", "num_rejected_steps", "max_steps"):
        assert int(ours.stats[name]) == int(theirs.stats[name])


def test_signature_is_that_of_diffrax_and_engine():
    theirs = inspect.signature(inspect.unwrap(diffrax.diffeqsolve)).parameters
    ours = inspect.signature(ok.diffeqsolve).parameters
    assert [(p.name, p.kind) for p in ours.values() if p.name != "engine"] == [
        (p.name, p.kind) for p in theirs.values()
    ]
    for name, parameter in theirs.items():
        assert str(ours[name].default) == str(parameter.default)


SLOW = [diffrax.Dopri5(), diffrax.Heun(), diffrax.Dopri8(), diffrax.Bosh3(), diffrax.Midpoint(), diffrax.Ralston()]
ADAPTIVE = [diffrax.Tsit5(), *(pytest.param(s, marks=pytest.mark.slow) for s in SLOW)]


@pytest.mark.parametrize("solver", ADAPTIVE, ids=lambda s: type(s).__name__)
def test_steps_and_values_are_those_of_diffrax(solver):
    """A coarse start and PI gains: some steps are rejected; the controller's float32 leaves 1e-6 of a step."""
    pid = diffrax.PIDController(rtol=1e-4, atol=1e-6, pcoeff=0.3, icoeff=0.4, dtmax=2.0)
    ours, theirs = both(
        solver, 3.0, 2.5, stepsize_controller=pid, saveat=diffrax.SaveAt(steps=True, t0=True), max_steps=900
    )
    assert int(ours.stats["num_rejected_steps"]) > 0
    same_steps(ours, theirs)
    assert ours.result == diffrax.RESULTS.successful
    n = int(ours.stats["num_accepted_steps"])  # the last step is taken at once from 1 % beyond
    np.testing.assert_allclose(ours.ts[:n], theirs.ts[:n], rtol=1e-5)
    close((ours.ts, ours.ys), (theirs.ts, theirs.ys), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("solver", "t1"), [(diffrax.Euler(), -1.3), (diffrax.Tsit5(), 1.3)], ids=["Euler", "Tsit5"])
def test_fixed_steps_are_those_of_diffrax(solver, t1):
    """The step does not divide the interval: the first one is dt0, the others share out what is left."""
    ours, theirs = both(solver, t1, 0.3 * np.sign(t1), saveat=diffrax.SaveAt(steps=True, t1=True), max_steps=20)
    same_steps(ours, theirs)
    close((ours.ts, ours.ys), (theirs.ts, theirs.ys))


def test_steps_to_given_times():
    to = diffrax.StepTo(ts=jnp.array([0.0, 0.1, 0.5, 1.3]))
    ours, theirs = both(diffrax.Heun(), dt0=None, stepsize_controller=to)
    same_steps(ours, theirs)
    close((ours.ts, ours.ys), (theirs.ts, theirs.ys))


SWITCHED = diffrax.ODETerm(lambda t, y, args: jnp.where(jnp.abs(t) < 0.7, 1.0, -1.0) - args * y)


@pytest.mark.parametrize("t1", [1.5, -1.5], ids=["forwards", "backwards"])
def test_steps_end_at_given_times_and_jumps(t1):
    """A force that is switched at 0.7: without the jump there are steps that are rejected around it."""
    sign, times = np.sign(t1), np.sign(t1) * jnp.array([0.3, 9.0])
    clip = diffrax.ClipStepSizeController(PID, step_ts=times, jump_ts=sign * jnp.array([0.7]))
    ours, theirs = both(diffrax.Tsit5(), t1, 0.1 * sign, term=SWITCHED, stepsize_controller=clip, max_steps=60,
                        saveat=diffrax.SaveAt(steps=True))  # fmt: skip
    assert {sign * 0.3, sign * 0.7, t1} <= set(np.asarray(ours.ts).tolist())
    n, m = (int(sol.stats["num_accepted_steps"]) for sol in (ours, theirs))
    np.testing.assert_allclose(ours.ys[n - 1], theirs.ys[m - 1], rtol=1e-6)
    assert n <= m
    plain = ok.diffeqsolve(SWITCHED, diffrax.Tsit5(), 0.0, t1, 0.1 * sign, Y0, 4.0, stepsize_controller=PID)
    assert int(plain.stats["num_steps"]) > int(ours.stats["num_steps"])


def test_fixed_steps_over_traced_times_agree_with_known_ones():
    def run(t1):
        return ok.diffeqsolve(TERM, diffrax.Heun(), 0.0, t1, 0.1, Y0, 4.0, engine="odekit", max_steps=30)

    compiled = jax.jit(run)
    known, traced = run(1.3), compiled(1.3)
    same_steps(known, traced)
    close((known.ts, known.ys), (traced.ts, traced.ys))
    assert compiled(10.0).result == diffrax.RESULTS.max_steps_reached
    assert run(0.0).stats["num_steps"] == 0
    slope = jax.grad(lambda t1: jnp.sum(run(t1).ys))(1.3)
    np.testing.assert_allclose(slope, jnp.sum(field(1.3, known.ys[-1], 4.0)), rtol=1e-2)


SAVES = {
    "every second step and the end": diffrax.SaveAt(steps=2, t1=True),
    "times between steps": diffrax.SaveAt(t0=True, ts=(0.2, 0.9, 1.3), steps=1),
    "parts": diffrax.SaveAt(
        subs=(
            diffrax.SubSaveAt(ts=(0.2, 1.3), fn=lambda t, y, args: {"e": jnp.sum(y**2) * args, "t": t}),
            {"b": diffrax.SubSaveAt(t0=True, ts=(0.1, 0.2)), "c": diffrax.SubSaveAt(steps=3, t1=True)},
        )
    ),
}


@pytest.mark.parametrize("name", SAVES)
def test_buffers_are_filled_as_diffrax_fills_them(name):
    ours, theirs = both(diffrax.Tsit5(), stepsize_controller=PID, saveat=SAVES[name], max_steps=31)
    close((ours.ts, ours.ys), (theirs.ts, theirs.ys), rtol=1e-7, atol=1e-7)
    for one in ("interpolation", "solver_state", "controller_state", "made_jump", "event_mask"):
        assert getattr(ours, one) is None


def test_a_failed_solve_leaves_what_it_reached():
    saveat = diffrax.SaveAt(t0=True, ts=(0.2, 0.9, 1.1), t1=True)
    ours, theirs = both(diffrax.Tsit5(), 9.0, 0.1, saveat=saveat, max_steps=4, throw=False,
                        stepsize_controller=diffrax.PIDController(1e-6, 1e-8, dtmax=0.1))  # fmt: skip
    assert ours.result == theirs.result == diffrax.RESULTS.max_steps_reached
    close((ours.ts, ours.ys), (theirs.ts, theirs.ys), rtol=1e-7, atol=1e-7)


@pytest.mark.slow
def test_backwards_with_dense_output():
    saveat = diffrax.SaveAt(dense=True, ts=(1.1, 0.2), made_jump=True)
    ours, theirs = both(diffrax.Dopri5(), 0.0, -0.1, t0=1.3, stepsize_controller=PID, saveat=saveat, max_steps=60)
    close((ours.ts, ours.ys), (theirs.ts, theirs.ys), rtol=1e-7, atol=1e-7)
    assert ours.made_jump is False
    for t in (1.3, 0.71, 0.0):
        close(ours.evaluate(t), theirs.evaluate(t), rtol=1e-6)
        np.testing.assert_allclose(ours.derivative(t), theirs.derivative(t), rtol=1e-4, atol=1e-5)
    close(ours.evaluate(1.0, 0.2), theirs.evaluate(1.0, 0.2), rtol=1e-6)
    assert np.all(np.isnan(ours.evaluate(1.4)))
    assert (float(ours.interpolation.t0), float(ours.interpolation.t1)) == (1.3, 0.0)
    with pytest.raises(ValueError, match="Dense solution has not been saved"):
        ok.diffeqsolve(TERM, diffrax.Euler(), 0.0, 1.0, 0.1, Y0, 4.0).evaluate(0.5)


def test_nested_complex_state_and_args_that_are_functions():
    term = diffrax.ODETerm(lambda t, y, args: {"a": -y["a"], "b": (1j * y["b"][0],)})
    y0 = {"a": jnp.array(1.0 + 1j), "b": (jnp.ones((2, 1), jnp.complex128),)}
    ours, theirs = both(diffrax.Tsit5(), y0=y0, term=term)
    close((ours.ts, ours.ys), (theirs.ts, theirs.ys))
    plain = ok.diffeqsolve(diffrax.ODETerm(lambda t, y, g: g(y)), diffrax.Heun(), 0, 1, 0.1, Y0, jnp.sin)
    assert plain.ys.shape == (1, 2)


@pytest.mark.parametrize(("times", "state"), [(float, jnp.float32), (int, jnp.float64)])
def test_state_is_as_wide_as_time(times, state):
    ours, theirs = both(
        diffrax.Heun(),
        times(1),
        jnp.float32(0.1),
        Y0.astype(state),
        t0=times(0),
        term=diffrax.ODETerm(lambda t, y, a: -y),
    )
    close((ours.t0, ours.t1, ours.ts, ours.ys), (theirs.t0, theirs.t1, theirs.ts, theirs.ys), rtol=1e-6)


def loss(solve, y0, args, **options):
    saveat = diffrax.SaveAt(ts=(0.2, 0.9), t1=True)
    sol = solve(TERM, diffrax.Tsit5(), 0.0, 1.3, 0.1, y0, args, stepsize_controller=PID, saveat=saveat, max_steps=40,
                **options)  # fmt: skip
    return jnp.sum(sol.ys**2)


@pytest.mark.slow
def test_gradients_are_those_of_diffrax():
    args = jnp.array(4.0)
    theirs = jax.grad(loss, (1, 2))(diffrax.diffeqsolve, Y0, args)
    lanes = jax.vmap(lambda y0: jax.grad(loss, (1, 2))(ok.diffeqsolve, y0, args, engine="odekit"))
    close(jax.tree.map(lambda x: x[0], lanes(jnp.stack([Y0, 2 * Y0]))), theirs, rtol=1e-6)
    few = jax.grad(loss, 1)(ok.diffeqsolve, Y0, args, adjoint=diffrax.RecursiveCheckpointAdjoint(checkpoints=5))
    close(few, theirs[0], rtol=1e-6)
    forward = {"adjoint": diffrax.ForwardMode(), "engine": "odekit"}
    _, slope = jax.jvp(lambda y0: loss(ok.diffeqsolve, y0, args, **forward), (Y0,), (jnp.array([1.0, 0.0]),))
    np.testing.assert_allclose(slope, theirs[0][0], rtol=1e-6)


def loops(jaxpr):
    """Return the shapes that each while loop of a program carries, at any depth."""
    found = []
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "while":
            found.append([v.aval.shape for v in eqn.outvars])
        for sub in jax.tree.leaves(eqn.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            inner = getattr(sub, "jaxpr", sub)
            found += loops(inner) if hasattr(inner, "eqns") else []
    return found


@pytest.mark.parametrize("controller", [PID, diffrax.ConstantStepSize()], ids=["adaptive", "constant"])
def test_vmap_is_lanes_of_one_loop(controller):
    """No loop but that over time, whose state has the five solves as its trailing axis; each has its own steps."""

    def run(rate, t1):
        return ok.diffeqsolve(TERM, diffrax.Tsit5(), 0.0, t1, 0.1, Y0, rate, stepsize_controller=controller)

    rates, ends = jnp.geomspace(1.0, 300.0, 5), jnp.linspace(0.5, 3.0, 5)
    carried = loops(jax.make_jaxpr(jax.vmap(lambda r, t: run(r, t).ys))(rates, ends).jaxpr)
    assert carried  # once for each kind of device
    assert all((2, 5) in shapes for shapes in carried)
    many = jax.vmap(run)(rates, ends)
    alone = [jax.jit(run)(r, t) for r, t in zip(rates, ends, strict=True)]
    steps = [int(sol.stats["num_steps"]) for sol in alone]
    assert many.stats["num_steps"].tolist() == steps
    assert len(set(steps)) == 5
    np.testing.assert_allclose(many.ys, jnp.stack([sol.ys for sol in alone]), rtol=1e-12)
    assert (
        many.result == diffrax.RESULTS.successful if many.result._value.ndim == 0 else np.all(many.result._value == 0)
    )


def test_dense_output_under_vmap():
    def run(y0):
        return ok.diffeqsolve(TERM, diffrax.Tsit5(), 0.0, 1.3, 0.1, y0, 4.0, stepsize_controller=PID, max_steps=50,
                              saveat=diffrax.SaveAt(dense=True), engine="odekit")  # fmt: skip

    sols = jax.vmap(run)(jnp.stack([Y0, 2 * Y0]))
    at = jax.vmap(lambda sol: (sol.evaluate(0.5), sol.derivative(0.5)))(sols)
    alone = run(2 * Y0)
    close(jax.tree.map(lambda x: x[1], at), (alone.evaluate(0.5), alone.derivative(0.5)))


OBSTACLES = [
    ({"terms": diffrax.MultiTerm(TERM, TERM)}, "`terms` is MultiTerm, not an ODETerm"),
    ({"solver": diffrax.Kvaerno5()}, "`solver` is Kvaerno5, which has no counterpart in odekit"),
    ({"solver": diffrax.Euler()}, "`solver` is Euler, which has no error estimate"),
    ({"event": diffrax.Event(lambda t, y, args, **_: y[0])}, "`event` was given"),
    ({"solver_state": (False, Y0)}, "`solver_state` was given"),
    ({"controller_state": ()}, "`controller_state` was given"),
    ({"made_jump": False}, "`made_jump` was given"),
    ({"progress_meter": diffrax.TextProgressMeter()}, "`progress_meter` is TextProgressMeter"),
    ({"adjoint": diffrax.BacksolveAdjoint()}, "`adjoint` is BacksolveAdjoint"),
    ({"adjoint": diffrax.DirectAdjoint()}, "`adjoint` is DirectAdjoint, which is differentiated in both modes"),
    ({"saveat": diffrax.SaveAt(t1=True, solver_state=True)}, "`saveat` asks for the solver_state"),
    ({"saveat": diffrax.SaveAt(ts=(0.5, 2.0))}, "`saveat` has times that are unsorted or not between t0 and t1"),
    ({"saveat": diffrax.SaveAt(ts=(0.5, 0.2))}, "`saveat` has times that are unsorted or not between t0 and t1"),
    (
        {"max_steps": None, "saveat": diffrax.SaveAt(ts=(0.5,))},
        "`max_steps` is None, and what `saveat` asks for needs a bound",
    ),
    ({"t1": np.inf}, "`t1` is not finite"),
    ({"dt0": -0.1}, "`dt0` does not lead from t0 to t1"),
    ({"args": [{1, 2}]}, "`args` holds something that is neither an array nor hashable"),
    (
        {"stepsize_controller": diffrax.ClipStepSizeController(PID, store_rejected_steps=3)},
        "`stepsize_controller` has store_rejected_steps",
    ),
    (
        {"stepsize_controller": diffrax.PIDController(1e-3, 1e-6, norm=lambda y: jnp.max(jnp.abs(y)))},
        "`stepsize_controller` has a norm of its own",
    ),
    (
        {"stepsize_controller": diffrax.PIDController(1e-3, 1e-6, dtmin=1e-3)},
        "`stepsize_controller` has dtmin with force_dtmin",
    ),
    (
        {"stepsize_controller": diffrax.StepTo(jnp.array([0.0, 1.0]))},
        "`dt0` does not fit the StepTo",
    ),
    (
        {"stepsize_controller": diffrax.StepTo(jnp.array([0.0, 2.0])), "dt0": None},
        "`stepsize_controller` is a StepTo whose times do not lead from t0 to t1",
    ),
]


@pytest.mark.parametrize(("change", "why"), OBSTACLES, ids=lambda x: x if isinstance(x, str) else "")
def test_engine_odekit_names_the_argument(change, why):
    call = {"terms": TERM, "solver": diffrax.Tsit5(), "t0": 0.0, "t1": 1.3, "dt0": 0.1, "y0": Y0, "args": 4.0}
    call = {**call, "stepsize_controller": PID, **change}
    with pytest.raises(ValueError, match=r"^`") as caught:
        ok.diffeqsolve(**call, engine="odekit")
    assert str(caught.value) == f"{why}; odekit's loop cannot serve that: change it, or give engine='auto'."


def test_delegation_is_noted_once(caplog):
    door._NOTED.clear()
    event = diffrax.Event(lambda t, y, args, **_: y[0] < 0.7)
    with caplog.at_level(logging.WARNING, "odekit"):
        sols = [ok.diffeqsolve(TERM, diffrax.Euler(), 0.0, 1.3, 0.1, Y0, 4.0, event=event) for _ in range(2)]
        ok.diffeqsolve(TERM, diffrax.Euler(), 0.0, 1.3, 0.1, Y0, 4.0, engine="diffrax")
    assert [record.getMessage() for record in caplog.records] == [
        "odekit.diffeqsolve is run by diffrax: `event` was given."
    ]
    assert sols[0].result == diffrax.RESULTS.event_occurred
    with pytest.raises(ValueError, match=r"^`engine` was 'jax'; give 'auto', 'odekit' or 'diffrax'.$"):
        ok.diffeqsolve(TERM, diffrax.Euler(), 0.0, 1.3, 0.1, Y0, 4.0, engine="jax")


def test_failures_raise_on_the_host_only():
    def run(y0, throw=True):
        return ok.diffeqsolve(TERM, diffrax.Tsit5(), 0.0, 50.0, 0.1, y0, 4.0, stepsize_controller=PID, max_steps=9,
                              throw=throw, engine="odekit")  # fmt: skip

    with pytest.raises(RuntimeError, match="The maximum number of solver steps was reached"):
        run(Y0)
    assert jax.jit(run)(Y0).result == diffrax.RESULTS.max_steps_reached
    with pytest.raises(RuntimeError, match="The maximum number of solver steps was reached"):
        jax.jit(lambda y0: run(y0, "traced").ys)(Y0).block_until_ready()


@pytest.mark.parametrize("controller", [PID, diffrax.ConstantStepSize()], ids=["adaptive", "constant"])
def test_a_field_that_is_not_finite_is_a_failure(controller):
    term = diffrax.ODETerm(lambda t, y, args: jnp.where(t > 0.5, jnp.nan, -y))
    sol = ok.diffeqsolve(term, diffrax.Heun(), 0.0, 1.0, 0.1, 1.0, stepsize_controller=controller, throw=False)
    assert sol.result == diffrax.RESULTS.nonfinite
    assert np.isfinite(sol.ys)
    assert 0.3 < float(sol.ts[0]) < 0.6


def test_new_numbers_trace_nothing():
    """The field is traced once, whatever numbers follow, and the values are those of each call."""
    traces = []

    def counted(t, y, args):
        traces.append(1)
        return -args * y

    term = diffrax.ODETerm(counted)
    plain = {"t1": 1.3, "dt0": 0.1, "y0": Y0, "args": 4.0, "rtol": 1e-6, "dtmax": 1.0, "ts": (0.2, 1.0), "throw": True}
    changes = [{}, {"t1": 2}, {"dt0": 0.2}, {"y0": 2 * Y0}, {"args": 3.0}, {"rtol": 1e-3}, {"dtmax": 0.05},
               {"ts": (0.3, 0.9)}, {"throw": False}]  # fmt: skip
    sols = []
    for change in changes:
        v = plain | change
        sols.append(
            ok.diffeqsolve(
                term,
                diffrax.Tsit5(),
                0.0,
                v["t1"],
                v["dt0"],
                v["y0"],
                v["args"],
                throw=v["throw"],
                max_steps=64,
                stepsize_controller=diffrax.PIDController(v["rtol"], 1e-8, dtmax=v["dtmax"]),
                saveat=diffrax.SaveAt(ts=v["ts"], t1=True),
                engine="odekit",
            )  # fmt: skip
        )
    assert len(traces) == 1
    ends = np.array([sol.ys[-1, 0] for sol in sols])
    exact = [np.exp(-(plain | c)["args"] * (plain | c)["t1"]) * (plain | c)["y0"][0] for c in changes]
    np.testing.assert_allclose(ends, exact, atol=1e-3)
    assert len({int(sol.stats["num_steps"]) for sol in sols}) > 3
    np.testing.assert_array_equal(sols[7].ts, [0.3, 0.9, 1.3])
    assert sols[0].stats["max_steps"] == 64
