"""Neural differential equations and the generative models that samplers are tried on: one family a file."""

from odekit.neural.flow import FlowMatching, VelocityMLP, train
from odekit.neural.metrics import frechet_distance
from odekit.neural.ode import NeuralODE

__all__ = ["FlowMatching", "NeuralODE", "VelocityMLP", "frechet_distance", "train"]
