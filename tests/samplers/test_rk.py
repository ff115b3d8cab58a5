import numpy as np
import pytest
from cases_sampling import FM, VE, VP, agrees, flow_error

from odekit.samplers import adams, euler, heun, time_grid

FLOW = {  # builder, steps: rms error to the exact flow
    "euler": (euler, (5, 10, 20), (2.01e-1, 1.25e-1, 9.31e-2)),
    "heun": (lambda s, ts: heun(s, ts, euler_at_final=False), (2, 5, 10), (1.68e-1, 5.64e-2, 2.32e-2)),
    "adams2": (lambda s, ts: adams(s, ts, 2), (5, 10, 20), (8.01e-2, 3.48e-2, 1.56e-2)),
    "adams3": (lambda s, ts: adams(s, ts, 3), (5, 10, 20), (9.06e-2, 4.50e-2, 1.10e-2)),
}
EXPLODING = {
    "euler": (euler, (5, 10, 20), (3.34e-1, 2.01e-1, 1.24e-1)),
    "heun": (heun, (2, 5, 10), (3.01e0, 5.71e-1, 1.01e-1)),
}


@pytest.mark.parametrize("name", FLOW)
def test_errors_on_a_flow(name):
    build, steps, printed = FLOW[name]
    for n, want in zip(steps, printed, strict=True):
        value = flow_error(build(FM, time_grid(FM, n)), "FM")
        assert agrees(value, want), f"{n}: {value:.4e}, not {want:.2e}"


@pytest.mark.parametrize("name", EXPLODING)
def test_errors_on_an_exploding_path(name):
    build, steps, printed = EXPLODING[name]
    for n, want in zip(steps, printed, strict=True):
        value = flow_error(build(VE, time_grid(VE, n, "karras")), "VE")
        assert agrees(value, want), f"{n}: {value:.4e}, not {want:.2e}"


@pytest.mark.parametrize(("n", "nfe", "printed"), [(3, 5, 3.01), (5, 9, 1.04), (10, 19, 0.136)])
def test_heun_to_no_noise_ends_with_euler(n, nfe, printed):
    table = heun(VE, time_grid(VE, n, "karras", end="zero"))
    assert table.nfe == nfe
    assert agrees(flow_error(table, "VE"), printed)


@pytest.mark.parametrize(
    ("build", "slope"),
    [(euler, 1.16), (lambda s, ts: heun(s, ts, euler_at_final=False), 1.98), (adams, 1.99)]
    + [(lambda s, ts: adams(s, ts, 3), 2.13)],
)
def test_slopes_on_a_flow(build, slope):
    coarse, fine = (flow_error(build(FM, time_grid(FM, n)), "FM") for n in (128, 256))
    assert abs(np.log2(coarse / fine) - slope) < 0.15


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_adams_integrates_polynomials_in_time_once_it_has_its_history(order):
    """On any grid; the ramp is exact for what its own orders allow, so degrees are tested from the row that has all."""
    ts = np.array([1.0, 0.8, 0.7, 0.45, 0.3, 0.1])
    table = adams(VP, ts, order)
    for row in range(order - 1, 5):
        weights = {(row - j): float(table.evals[row, 0, (row - j) % order]) for j in range(order)}
        for degree in range(order):
            got = sum(w * ts[k] ** degree for k, w in weights.items())
            want = (ts[row + 1] ** (degree + 1) - ts[row] ** (degree + 1)) / (degree + 1)
            np.testing.assert_allclose(got, want, atol=1e-13)


def test_published_constant_step_weights():
    ts = np.linspace(1.0, 0.5, 6)
    rows = adams(VP, ts, 3).evals[4, 0]
    by_age = [float(rows[(4 - j) % 3]) / (ts[1] - ts[0]) for j in range(3)]
    np.testing.assert_allclose(by_age, [23 / 12, -16 / 12, 5 / 12], rtol=1e-12)


def test_orders_that_do_not_exist():
    with pytest.raises(ValueError, match="`order` is 5"):
        adams(VP, [1.0, 0.5], 5)
