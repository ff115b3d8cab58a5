"""Events: where they are found, what they do to one lane and not to the others, and their derivatives."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odekit as ok
from odekit import Event

G, KEPT, HEIGHT, T1 = 9.81, 0.8, 10.0, 5.0
SHARP = {"rtol": 1e-10, "atol": 1e-10}
START = jnp.array([1.0, 0.0])
# One with weights of its own for the interpolant, one with Hermite's cubic; the others are these at more cost.
METHODS = [ok.Tsit5, ok.Bosh3, *(pytest.param(make, marks=pytest.mark.slow) for make in (ok.Dopri5, ok.Dopri8))]


def fall(t, y, args):
    return jnp.stack([y[1], -args[0]])


def turn(t, y, args):
    return jnp.stack([y[1], -y[0]])


def down(t, y, args):
    return y[0]


FLOOR = Event(down, "down")
BOUNCE = Event(down, "down", apply=lambda t, y, args: jnp.stack([y[0], -args[1] * y[1]]))
ZERO = Event(down)


def ball(height, args, t1=T1, event=BOUNCE, **options):
    return ok.solve(fall, jnp.stack([height, 0 * height]), 0.0, t1, args=args, event=event, **options)


def ball_exactly(height, g, kept, t1):
    """Position and speed at t1, and the number of bounces before."""
    t, v, n = np.sqrt(2 * height / g), np.sqrt(2 * g * height) * kept, 1
    if t1 < t:
        return np.array([height - g * t1**2 / 2, -g * t1]), 0
    while t + 2 * v / g < t1:
        t, v, n = t + 2 * v / g, v * kept, n + 1
    return np.array([v * (t1 - t) - g * (t1 - t) ** 2 / 2, v - g * (t1 - t)]), n


ARGS = jnp.array([G, KEPT])
bounced = jax.jit(jax.vmap(lambda height: ball(height, ARGS)))


@pytest.mark.parametrize("make", METHODS, ids=lambda make: make.__name__)
def test_the_end_is_on_the_event_and_as_accurate_as_the_method(make):
    sol = ok.solve(turn, START, 0.0, 100.0, make(), event=ZERO, rtol=1e-7, atol=1e-7)
    assert abs(float(sol.t1) - np.pi / 2) < 2e-6
    assert abs(float(sol.y1[0])) < 2e-14
    assert (int(sol.event), int(sol.result)) == (0, ok.Result.SUCCESS)
    assert sol.message() == "The solve was ended by event 0 at t=1.5708."
    np.testing.assert_array_equal(sol.ts, [sol.t1])
    assert int(sol.stats["rejected"]) <= 6


def test_a_solve_that_meets_no_event_is_the_solve_without():
    sol = ok.solve(turn, START, 0.0, 1.0, event=ZERO)
    plain = ok.solve(turn, START, 0.0, 1.0)
    assert int(sol.event) == int(plain.event) == -1
    assert sol.message() == "The solve reached t1."
    np.testing.assert_allclose(sol.y1, plain.y1, rtol=1e-14)
    assert int(sol.stats["accepted"]) == int(plain.stats["accepted"])


@pytest.mark.parametrize(
    ("event", "t", "which"),
    [
        ([Event(lambda t, y, args: y[0] + 2.0), Event(lambda t, y, args: t - 4.9), Event(down, "up")], 1.5 * np.pi, 2),
        ([ZERO, Event(lambda t, y, args: y[1] + 0.5, "down")], np.pi / 6, 1),
        ([ZERO, Event(lambda t, y, args: 2 * y[0])], np.pi / 2, 0),  # at the same time: the first one
        (Event(lambda t, y, args: jnp.where(y[0] > 0, 1.0, -1.0)), np.pi / 2, 0),  # no slope: bisection
        (Event(lambda t, y, args: y[0] ** 3), np.pi / 2, 0),
    ],
    ids=["up", "earliest", "same time", "sign", "cubic"],
)
def test_which_event_and_when(event, t, which):
    sol = ok.solve(turn, START, 0.0, 10.0, event=event, **SHARP)
    assert abs(float(sol.t1) - t) < 1e-9
    assert int(sol.event) == which


def test_backward_time():
    sol = ok.solve(turn, START, 0.0, -10.0, event=Event(down, "down"), **SHARP)
    assert abs(float(sol.t1) + np.pi / 2) < 1e-9


def test_two_crossings_inside_one_step_are_seen():
    bump = Event(lambda t, y, args: (y - 0.9) * (y - 1.3))
    sol = ok.solve(lambda t, y, args: jnp.ones_like(y), 0.0, 0.0, 2.0, dt0=2.0, event=bump)
    assert abs(float(sol.t1) - 0.9) < 1e-13
    assert int(sol.stats["accepted"]) == 1


@pytest.mark.parametrize("start", [0.0, -1e-17, 1e-17])
def test_an_event_at_the_start_waits_until_it_is_left(start):
    sol = ok.solve(turn, jnp.array([start, 1.0]), 1.0, 10.0, event=ZERO, **SHARP)
    assert abs(float(sol.t1) - 1 - np.pi) < 1e-9


def test_a_solve_goes_on_from_an_event():
    first = ok.solve(turn, START, 0.0, 10.0, event=ZERO, **SHARP)
    second = ok.solve(turn, first.y1, first.t1, 10.0, event=ZERO, **SHARP)
    assert abs(float(second.t1) - 1.5 * np.pi) < 1e-9


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_low_precision_and_pytrees_keep_their_dtype(dtype):
    y0 = {"q": jnp.ones((), dtype), "p": (jnp.zeros((), dtype), None)}
    field = lambda t, y, args: {"q": y["p"][0], "p": (-y["q"], None)}  # noqa: E731
    tol = 1e-5 if dtype == jnp.float32 else 1e-2
    sol = ok.solve(field, y0, 0.0, 9.0, event=Event(lambda t, y, args: y["q"]), rtol=tol, atol=tol)
    assert sol.y1["q"].dtype == dtype
    assert sol.t1.dtype == jnp.float32
    assert abs(float(sol.t1) - np.pi / 2) < 10 * tol


def test_an_endless_interval():
    assert abs(float(ball(HEIGHT, ARGS, jnp.inf, FLOOR).t1) - np.sqrt(2 * HEIGHT / G)) < 1e-12
    never = ok.solve(lambda t, y, args: 0 * y, 1.0, 0.0, jnp.inf, event=Event(lambda t, y, args: y + 1.0), throw=False)
    assert int(never.result) == ok.Result.NO_EVENT
    assert never.message() == (
        "The solve stopped at t=1e+30: it met no event that ends it; give a finite t1, or check where the event's "
        "function changes sign. It had taken 37 steps and rejected 0."
    )


def test_bounces_in_closed_form():
    heights = jnp.linspace(2.0, 30.0, 9)
    sol = bounced(heights)
    exact = [ball_exactly(float(h), G, KEPT, T1) for h in heights]
    assert len({n for _, n in exact}) >= 3
    np.testing.assert_allclose(sol.y1, [y for y, _ in exact], rtol=0, atol=1e-10)
    assert np.all(sol.event == -1)


def test_lanes_do_not_see_each_other():
    heights = jnp.linspace(2.0, 30.0, 9)
    together, others = bounced(heights), bounced(heights.at[4].set(1e-3))
    keep = np.arange(9) != 4
    for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(others), strict=True):
        np.testing.assert_array_equal(np.asarray(a)[keep], np.asarray(b)[keep])
    alone = ball(heights[2], ARGS)
    np.testing.assert_allclose(alone.y1, together.y1[2], rtol=1e-13)
    assert int(alone.stats["accepted"]) == int(together.stats["accepted"][2])


def test_events_that_pile_up_stop_their_lane():
    half = jnp.array([G, 0.5])
    sol = ball(1.0, half, 10.0, throw=False, max_steps=1000)
    assert int(sol.result) == ok.Result.UNDERFLOW
    assert abs(float(sol.t1) - 3 * np.sqrt(2 / G)) < 1e-9


def point_loss(point, adjoint=None):
    height, *args, t1 = point
    return jnp.sum(jnp.array([1.0, 0.3]) * ball(height, jnp.stack(args), t1, adjoint=adjoint).y1)


@pytest.mark.parametrize(
    "gradient",
    [jax.grad(point_loss), jax.jacfwd(lambda point: point_loss(point, ok.adjoint.Forward()))],
    ids=["reverse", "forward"],
)
def test_gradients_through_bounces(gradient):
    """By height, gravity, what a bounce keeps and the end, of lanes with different numbers of bounces."""
    heights = np.linspace(2.0, 30.0, 5)
    got = jax.jit(jax.vmap(lambda height: gradient((height, G, KEPT, T1))))(jnp.asarray(heights))

    def exact(*point):
        return ball_exactly(*point)[0] @ np.array([1.0, 0.3])

    for lane, height in enumerate(heights):
        at, h = np.array([height, G, KEPT, T1]), 1e-6
        want = [(exact(*(at + h * e)) - exact(*(at - h * e))) / (2 * h) for e in np.eye(4)]
        np.testing.assert_allclose([slope[lane] for slope in got], want, rtol=1e-6)


POINT = (jnp.array([1.0, 0.2]), jnp.array(1.3), jnp.array(-0.4), jnp.array(0.1))


def arrival(point, adjoint=None):
    """Time, state and a saved state of a pendulum at an angle that is itself a parameter."""
    y0, length, angle, t0 = point
    event = Event(lambda t, y, args: y[0] - angle, "down")
    sol = ok.solve(
        lambda t, y, args: jnp.stack([y[1], -jnp.sin(y[0]) / args]), y0, t0, 20.0, args=length, event=event,
        adjoint=adjoint, saveat=ok.SaveAt(ts=[0.7, 19.0], t1=True), max_steps=128, rtol=1e-11, atol=1e-11,
    )  # fmt: skip
    return jnp.concatenate([sol.t1[None], sol.y1, sol.ys[0], sol.ys[2], sol.ts[2:]])


def test_gradients_of_time_and_state_of_an_event():
    """Of reverse mode against differences; of forward mode, whose program gives the values too, against reverse."""
    jacobian = jax.jit(jax.jacrev(arrival))(POINT)
    forward = jax.jit(partial(jax.jvp, lambda *point: arrival(point, ok.adjoint.Forward())))
    zero = jax.tree.map(jnp.zeros_like, POINT)
    for i, columns in enumerate(jacobian):
        for j in np.ndindex(POINT[i].shape):
            unit = (*zero[:i], zero[i].at[j].set(1), *zero[i + 1 :])
            up, low = (forward(jax.tree.map(lambda x, e, h=h: x + h * e, POINT, unit), unit)[0] for h in (1e-5, -1e-5))
            np.testing.assert_allclose(columns[(..., *j)], (up - low) / 2e-5, rtol=1e-7, atol=1e-8)
            np.testing.assert_allclose(forward(POINT, unit)[1], columns[(..., *j)], rtol=1e-9, atol=1e-9)


def test_a_grazing_event_has_no_derivative():
    def time(shift):
        field = lambda t, y, args: jnp.stack([jnp.ones(()), 3 * (t - 1) ** 2])  # noqa: E731
        return ok.solve(
            field, jnp.stack([0.0, shift - 1.0]), 0.0, 3.0, event=Event(lambda t, y, args: y[1]), **SHARP
        ).t1

    value, slope = jax.value_and_grad(time)(0.0)
    assert abs(float(value) - 1) < 1e-3
    assert np.isnan(slope)


def test_saved_times_beyond_the_event_are_nan():
    sol = ok.solve(turn, START, 0.0, 10.0, event=ZERO, saveat=ok.SaveAt(ts=[0.5, 1.5, 2.0], dense=True), max_steps=128)
    np.testing.assert_allclose(sol.ys[:2, 0], np.cos([0.5, 1.5]), atol=1e-4)
    assert np.all(np.isnan(sol.ys[2]))
    beyond, end = sol(jnp.stack([jnp.full_like(sol.t1, 3.0), sol.t1]))
    assert np.all(np.isnan(beyond))
    np.testing.assert_array_equal(end, sol.y1)


def test_saved_times_after_bounces():
    ts = np.linspace(0.0, T1, 11)
    sol = ball(HEIGHT, ARGS, saveat=ok.SaveAt(ts=ts, steps=True), max_steps=64)
    np.testing.assert_allclose(sol.ys[:11], [ball_exactly(HEIGHT, G, KEPT, t)[0] for t in ts], atol=1e-10)
    steps = np.asarray(sol.ys[11 : 11 + int(sol.stats["accepted"])])
    up = steps[np.abs(steps[:, 0]) < 1e-10]
    assert np.all(up[:, 1] > 0)  # a step that ends on an event shows the state after it
    assert len(up) == ball_exactly(HEIGHT, G, KEPT, T1)[1]


def test_an_event_that_neither_ends_nor_changes_lands_a_step():
    mark = Event(down, terminal=False)
    sol = ok.solve(turn, START, 0.0, 10.0, event=mark, saveat=ok.SaveAt(steps=True), max_steps=512, **SHARP)
    on = np.asarray(sol.ts)[np.abs(np.asarray(sol.ys[:, 0])) < 1e-12]
    np.testing.assert_allclose(on, np.pi * np.array([0.5, 1.5, 2.5]), atol=1e-8)


def test_pieces_are_one_solve_to_the_bit():
    event = [BOUNCE, Event(lambda t, y, args: t - 4.0)]
    state = ok.init(fall, jnp.array([HEIGHT, 0.0]), 0.0, T1, args=ARGS, event=event)
    while int(state.result) == ok.Result.UNFINISHED:
        state = ok.step(fall, state, n=2, args=ARGS)
    got, want = ok.finish(state), ball(HEIGHT, ARGS, event=event)
    for name in ("t1", "y1", "event", "result"):
        np.testing.assert_array_equal(getattr(got, name), getattr(want, name))
    assert int(want.event) == 1


def refused(kind, sentence, **options):
    with pytest.raises(kind) as caught:
        ok.solve(turn, START, 0.0, 1.0, **options)
    assert str(caught.value) == sentence


def test_what_is_refused():
    refused(
        TypeError,
        "the event's `fn` returned dtype bool; return a real number that changes sign, such as y[0] - 1.0 for "
        "y[0] > 1.0.",
        event=Event(lambda t, y, args: y[0] > 1.0),
    )
    refused(
        ValueError,
        "the event's `fn` returned arrays of shapes [(2,)]; return one real scalar.",
        event=Event(lambda t, y, args: y),
    )
    refused(TypeError, "`event` was function; give odekit.Event(fn), or a sequence of them.", event=down)
    refused(
        ValueError,
        "the event's `apply`'s result has shape (), y0 has (2,); return one like y.",
        event=Event(down, apply=lambda t, y, args: y[0]),
    )
    refused(
        ValueError,
        "`event`, `stops` or `jumps` were given with a fixed grid; they need adaptive steps: drop n_steps or dt.",
        event=ZERO,
        n_steps=4,
    )
    with pytest.raises(ValueError, match=r"`direction` was 'left'; give 'up', 'down' or None\."):
        Event(down, "left")
    with pytest.raises(TypeError, match=r"`fn` was float; give a function of \(t, y, args\)\."):
        Event(1.0)
