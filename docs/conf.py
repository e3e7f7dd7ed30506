"""Configuration of the Sphinx build: sphinx-build -W -b html docs docs/_build/html."""

import skcce

project = "skcce"
author = "The skcce developers"
release = version = skcce.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.mathjax", "numpydoc"]
exclude_patterns = ["_build"]

# The docstrings state the types, and the pages name the members.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False

html_theme = "pydata_sphinx_theme"
html_title = f"{project} {release}"
