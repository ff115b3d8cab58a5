"""Our methods run by diffrax: order, interpolant, trainable coefficients, and the way back."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odekit as ok

TERM = diffrax.ODETerm(lambda t, y, args: -2.0 * t * y + jnp.cos(t) * y**2)
Y0, T1 = jnp.array([0.5, 0.8]), 1.2


def exact():
    """The same problem at a tolerance that leaves 1e-12."""
    sol = ok.solve(TERM.vector_field, Y0, 0.0, T1, ok.Dopri8(), rtol=1e-12, atol=1e-13, saveat=[0.47, T1])
    return sol.ys[:, 0], sol.ys[:, 1]


OTHERS = [pytest.param(ok.Euler(), 1, marks=pytest.mark.slow), pytest.param(ok.Bosh3(), 3, marks=pytest.mark.slow)]


@pytest.mark.parametrize(("method", "order"), [(ok.RK4(), 4), (ok.Tsit5(), 5), *OTHERS], ids=lambda x: str(x)[:9])
def test_order_of_steps_and_of_the_interpolant(method, order):
    @jax.jit
    def run(n):
        sol = diffrax.diffeqsolve(
            TERM, ok.as_diffrax(method), 0.0, T1, T1 / n, Y0, saveat=diffrax.SaveAt(ts=(0.47,), t1=True)
        )
        return sol.ys

    want = jnp.stack(exact(), axis=1)
    errors = [np.max(np.abs(run(n) - want), axis=1) for n in (11.0, 22.0, 44.0)]
    slopes = np.log2(np.asarray(errors[:-1]) / np.asarray(errors[1:]))
    assert np.all(slopes[:, 1] > order - 0.35)
    assert np.all(slopes[:, 0] > min(order, 4) - 0.5)


def test_capabilities_follow_the_numbers():
    adaptive, fixed = ok.as_diffrax(ok.Tsit5()), ok.as_diffrax(ok.RK4())
    assert isinstance(adaptive, diffrax.AbstractAdaptiveSolver)
    assert not isinstance(fixed, diffrax.AbstractAdaptiveSolver)
    assert (adaptive.order(TERM), adaptive.error_order(TERM)) == (5, 5)
    with pytest.raises(TypeError, match=r"^`method` was ETDRK4; give a RungeKutta method.$"):
        ok.as_diffrax(ok.ETDRK4())


def test_stages_of_the_interpolant_alone_are_evaluated():
    """DOP853 reads its interpolant off three more stages; its two error estimates are no matter for equal steps."""
    solver = ok.as_diffrax(ok.DOP853())
    assert not isinstance(solver, diffrax.AbstractAdaptiveSolver)
    sol = diffrax.diffeqsolve(TERM, solver, 0.0, T1, 0.2, Y0, saveat=diffrax.SaveAt(ts=(0.47,), t1=True), max_steps=8)
    want = jnp.stack(exact(), axis=1)
    np.testing.assert_allclose(sol.ys, want, rtol=1e-8)
    pid = diffrax.PIDController(1e-8, 1e-8)
    served = ok.diffeqsolve(TERM, solver, 0.0, T1, None, Y0, stepsize_controller=pid, engine="odekit")
    np.testing.assert_allclose(served.ys[0], want[1], rtol=1e-7)


def test_steps_are_those_of_the_same_method_in_diffrax():
    """Backwards, adaptive, over a jump: the first stage is kept between steps and evaluated anew behind a jump."""
    clip = diffrax.ClipStepSizeController(diffrax.PIDController(1e-6, 1e-8), jump_ts=jnp.array([0.5]))

    def run(solver):
        return diffrax.diffeqsolve(TERM, solver, T1, 0.0, -0.1, Y0, stepsize_controller=clip, max_steps=60,
                                   saveat=diffrax.SaveAt(ts=(0.77, 0.3), t1=True))  # fmt: skip

    ours, theirs = run(ok.as_diffrax(ok.Tsit5())), run(diffrax.Tsit5())
    assert int(ours.stats["num_steps"]) == int(theirs.stats["num_steps"])
    np.testing.assert_allclose(ours.ys, theirs.ys, rtol=1e-7)


def test_coefficients_are_trained_through_diffrax():
    def loss(theta):
        method = ok.RungeKutta(a=((theta,),), b=(1 - 0.5 / theta, 0.5 / theta), c=(0.0, theta), order=2)
        sol = diffrax.diffeqsolve(TERM, ok.as_diffrax(method), 0.0, T1, 0.2, Y0, max_steps=8)
        return jnp.sum(sol.ys**2)

    slope, h = jax.grad(loss)(jnp.array(0.6)), 1e-5
    central = (loss(jnp.array(0.6 + h)) - loss(jnp.array(0.6 - h))) / (2 * h)
    np.testing.assert_allclose(slope, central, rtol=1e-6)


def test_diffeqsolve_takes_the_method_out_again():
    run = jax.jit(lambda solver: ok.diffeqsolve(TERM, solver, 0.0, T1, 0.1, Y0, engine="odekit").ys, static_argnums=0)
    plain = ok.solve(TERM.vector_field, Y0, 0.0, T1, ok.RK4(), n_steps=12).y1
    np.testing.assert_allclose(run(ok.as_diffrax(ok.RK4()))[0], plain, rtol=1e-13)
