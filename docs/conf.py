"""Sphinx configuration: Markdown by MyST-NB, furo, and the reference from the docstrings."""

import odekit

project = "odekit"
author = "The odekit authors"
copyright = "2026, The odekit authors"
release = odekit.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"odekit {release}"

nb_execution_mode = "off"  # the tests run every Python block of these pages
myst_heading_anchors = 3
autodoc_typehints = "none"  # shapes and dtypes are in the docstrings
default_role = "code"
