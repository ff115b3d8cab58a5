"""Solve, sample and learn: numerical integration for JAX."""

__version__ = "0.1.0"
