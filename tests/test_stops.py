"""Steps that land on given times, and fields with announced discontinuities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odekit as ok
from odekit import PID

THIRD = 1 / 3


def kink(t, y, args):
    return jnp.where(t < THIRD, 1.0, -2.0) * jnp.ones_like(y)


def pulse(t, y, args):
    """Area 10 in 10 ms."""
    return jnp.where((t >= 0.5) & (t < 0.51), 1000.0, 0.0) * jnp.ones_like(y)


def growth(t, y, rate):
    return jnp.where(t < THIRD, rate * y, -2.0 * y * t)


def growth_exactly(y, rate, t0, t1):
    return y * np.exp(rate * (min(t1, THIRD) - t0)) * np.exp(-max(t1**2 - 1 / 9, 0))


def accepted(sol):
    return np.asarray(sol.ts)[: int(sol.stats["accepted"])]


def test_stops_are_landed_on_exactly_and_shorten_no_other_step():
    stops = [0.5, 0.51, 3.0, 7.0]
    steps = ok.SaveAt(steps=True)
    sol = ok.solve(lambda t, y, args: -y, 1.0, 0.0, 10.0, controller=PID(stops=stops), saveat=steps, max_steps=64)
    plain = ok.solve(lambda t, y, args: -y, 1.0, 0.0, 10.0, saveat=steps, max_steps=64)
    assert set(stops) <= set(accepted(sol))
    assert int(sol.stats["accepted"]) <= int(plain.stats["accepted"]) + len(stops)
    np.testing.assert_allclose(sol.y1, np.exp(-10), rtol=0, atol=1e-5)


@pytest.mark.parametrize("make", [ok.Tsit5, ok.Bosh3], ids=lambda make: make.__name__)
def test_a_jump_costs_nothing_and_is_exact(make):
    known = ok.solve(kink, 1.0, 0.0, 1.0, make(), controller=PID(1e-6, 1e-6, jumps=[THIRD]))
    assert abs(float(known.y1)) < 1e-15
    assert (int(known.stats["rejected"]), int(known.stats["accepted"]) <= 4) == (0, True)
    unknown = ok.solve(kink, 1.0, 0.0, 1.0, make(), rtol=1e-6, atol=1e-6)
    assert int(unknown.stats["rejected"]) > 5


@pytest.mark.parametrize("convention", [jnp.less, jnp.less_equal], ids=["<", "<="])
def test_either_convention_at_the_jump_itself(convention):
    field = lambda t, y, args: jnp.where(convention(t, 0.5), 1.0, -2.0) * jnp.ones_like(y)  # noqa: E731
    for ends in ((0.0, 1.0), (1.0, 0.0)):
        sol = ok.solve(field, 1.0, *ends, controller=PID(1e-6, 1e-6, jumps=[0.5]))
        assert abs(float(sol.y1) - 1 + 0.5 * (ends[1] - ends[0])) < 1e-15


def test_a_pulse_is_not_stepped_over():
    assert float(ok.solve(pulse, 0.0, 0.0, 10.0).y1) == 0.0  # nothing in the field says that it is there
    for jumps, ends in (([0.5, 0.51], (0.0, 10.0)), ([0.51, 0.5], (10.0, 0.0))):
        sol = ok.solve(pulse, 0.0, *ends, controller=PID(jumps=jumps))
        assert abs(abs(float(sol.y1)) - 10) < 1e-10


def test_float32():
    y0 = jnp.float32(0.0)
    sol = ok.solve(pulse, y0, 0.0, 10.0, controller=PID(jumps=[0.5, 0.51]))
    assert sol.y1.dtype == jnp.float32
    assert abs(float(sol.y1) - 10) < 1e-4


def test_jumps_of_their_own_under_vmap():
    at = jnp.linspace(0.1, 0.9, 5)

    def one(jump):
        field = lambda t, y, args: jnp.where(t < jump, 1.0, -2.0) * jnp.ones_like(y)  # noqa: E731
        return ok.solve(field, 0.0, 0.0, 1.0, controller=PID(1e-6, 1e-6, jumps=jump[None]))

    sol = jax.vmap(one)(at)
    np.testing.assert_allclose(sol.y1, 3 * at - 2, rtol=0, atol=2e-15)
    assert np.all(sol.stats["rejected"] == 0)


def solved(y, rate, t0, t1, adjoint=None):
    control = PID(1e-9, 1e-9, jumps=[THIRD])
    return ok.solve(growth, y, t0, t1, args=rate, controller=control, adjoint=adjoint).y1


def test_gradients_see_one_side_of_the_jump_at_a_time():
    point, h = np.array([1.3, 0.7, 0.1, 0.9]), 1e-6
    want = [(growth_exactly(*(point + h * e)) - growth_exactly(*(point - h * e))) / (2 * h) for e in np.eye(4)]
    back = jax.jit(jax.grad(solved, argnums=(0, 1, 2, 3)))(*point)
    ahead = jax.jit(jax.jacfwd(lambda *x: solved(*x, ok.adjoint.Forward()), argnums=(0, 1, 2, 3)))(*point)
    np.testing.assert_allclose(back, want, rtol=2e-8)
    np.testing.assert_allclose(ahead, want, rtol=2e-8)


def test_saved_times_and_dense_output_stay_on_their_side():
    ts = np.array([0.2, 0.333, THIRD, 0.334, 0.8])
    control = PID(1e-9, 1e-9, jumps=[THIRD])
    sol = ok.solve(
        growth, 1.3, 0.1, 0.9, args=0.7, controller=control, saveat=ok.SaveAt(ts=ts, dense=True), max_steps=64
    )
    want = [growth_exactly(1.3, 0.7, 0.1, t) for t in ts]
    np.testing.assert_allclose(sol.ys, want, rtol=2e-9)
    np.testing.assert_allclose(sol(ts), want, rtol=2e-9)


def test_an_event_a_jump_and_a_stop_in_one_solve_and_in_pieces_of_it():
    """The kinked line 1 + t, 4/3 - 2 (t - 1/3) falls through 1/2 at 3/4; the pieces are the solve to the bit."""
    options = {"event": ok.Event(lambda t, y, args: y - 0.5), "controller": PID(1e-6, 1e-6, stops=[0.2], jumps=[THIRD])}
    sol = ok.solve(kink, 1.0, 0.0, 9.0, **options)
    assert abs(float(sol.t1) - 0.75) < 1e-14
    state = ok.init(kink, 1.0, 0.0, 9.0, **options)
    while int(state.result) == ok.Result.UNFINISHED:
        state = ok.step(kink, state, n=1)
    np.testing.assert_array_equal((state.t, ok.finish(state).y1), (sol.t1, sol.y1))


@pytest.mark.parametrize("name", ["stops", "jumps"])
def test_what_is_refused(name):
    def refused(times, sentence):
        with pytest.raises(ValueError, match="`") as caught:
            ok.solve(kink, 1.0, 0.0, 1.0, controller=PID(**{name: times}))
        assert str(caught.value) == sentence

    refused([0.5, 0.2], f"`{name}` must increase: {name}[1]=0.2 follows {name}[0]=0.5; sort it.")
    refused([0.5, 1.5], f"`{name}` must lie between t0=0 and t1=1: it holds 1.5; move t1.")
    refused([0.5, np.nan], f"`{name}` must be finite: it holds nan; drop the others.")
    refused(0.5, f"`{name}` has shape (); give a one-dimensional array of times.")


def test_repeated_stops_and_none_at_all():
    sol = ok.solve(kink, 1.0, 0.0, 1.0, controller=PID(1e-6, 1e-6, jumps=[THIRD, THIRD], stops=[]))
    assert abs(float(sol.y1)) < 1e-15
