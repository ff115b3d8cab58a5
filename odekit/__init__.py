"""Solve, sample and learn: numerical integration for JAX."""
