"""How the derivative of a solve is taken."""

from odekit.adjoint.base import Adjoint
from odekit.adjoint.forward import Forward
from odekit.adjoint.recorded import Recorded

__all__ = ["Adjoint", "Forward", "Recorded"]
