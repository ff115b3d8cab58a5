"""Edges to other libraries."""
