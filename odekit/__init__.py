"""Solve, sample and learn: numerical integration for JAX.

A solver is a pytree of coefficients, and running it is a pure function.
"""

from odekit import adjoint, learn, neural, samplers, schedules
from odekit.checkpoint import checkpointed
from odekit.citations import cite
from odekit.control import PID
from odekit.errors import Result, SolveError
from odekit.event import Event
from odekit.explain import explain
from odekit.interop import as_diffrax, diffeqsolve
from odekit.io import load, save
from odekit.problem import ODE, SDE, SemiLinear
from odekit.samplers.continuous import probability_flow, reverse_sde
from odekit.samplers.denoiser import Denoiser
from odekit.samplers.grids import time_grid
from odekit.samplers.guidance import guided
from odekit.samplers.inversion import invert
from odekit.samplers.likelihood import log_prob
from odekit.samplers.sample import sample
from odekit.solution import SaveAt, Solution, check, finite_or
from odekit.solve import solve
from odekit.solvers.dop853 import DOP853
from odekit.solvers.exponential import ETDRK2, ETDRK4, Krogstad4
from odekit.solvers.rosenbrock import Rodas5P, Rosenbrock, Rosenbrock23
from odekit.solvers.runge_kutta import RungeKutta
from odekit.solvers.stochastic import EulerMaruyama, StochasticHeun
from odekit.solvers.switching import AutoSwitch
from odekit.solvers.tableaus import RK4, Bosh3, Dopri5, Dopri8, Euler, Heun, Midpoint, Ralston, Tsit5
from odekit.stepping import State, finish, init, step

__version__ = "0.1.0"

__all__ = [
    "AutoSwitch",
    "Bosh3",
    "DOP853",
    "Denoiser",
    "Dopri5",
    "Dopri8",
    "ETDRK2",
    "ETDRK4",
    "Euler",
    "EulerMaruyama",
    "Event",
    "Heun",
    "Krogstad4",
    "Midpoint",
    "ODE",
    "PID",
    "RK4",
    "Ralston",
    "Result",
    "Rodas5P",
    "Rosenbrock",
    "Rosenbrock23",
    "RungeKutta",
    "SDE",
    "SaveAt",
    "SemiLinear",
    "Solution",
    "SolveError",
    "State",
    "StochasticHeun",
    "Tsit5",
    "adjoint",
    "as_diffrax",
    "check",
    "checkpointed",
    "cite",
    "diffeqsolve",
    "explain",
    "finish",
    "finite_or",
    "guided",
    "init",
    "invert",
    "learn",
    "load",
    "log_prob",
    "neural",
    "probability_flow",
    "reverse_sde",
    "sample",
    "samplers",
    "save",
    "schedules",
    "solve",
    "step",
    "time_grid",
]
