"""The integration methods: families of coefficients, one step function each."""

from odekit.solvers.dop853 import DOP853
from odekit.solvers.exponential import ETDRK2, ETDRK4, Krogstad4
from odekit.solvers.rosenbrock import Rodas5P, Rosenbrock23
from odekit.solvers.stochastic import EulerMaruyama, StochasticHeun
from odekit.solvers.tableaus import RK4, Bosh3, Dopri5, Dopri8, Euler, Heun, Midpoint, Ralston, Tsit5

METHODS = (
    *(Euler, Heun, Midpoint, Ralston, Bosh3, RK4, Dopri5, Tsit5, Dopri8, DOP853),
    *(Rosenbrock23, Rodas5P),
    *(ETDRK2, ETDRK4, Krogstad4),
    *(EulerMaruyama, StochasticHeun),
)
"""Every constructor of a method; the tests run over it."""
