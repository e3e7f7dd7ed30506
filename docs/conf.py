"""Configuration of the Sphinx build: sphinx-build -W -b html docs docs/_build/html."""

import skcce

project = "skcce"
author = "The skcce developers"
release = version = skcce.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",
    "myst_nb",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = [
    "_build",
    "**.ipynb_checkpoints",
    # What the gallery offers for download is no page, though myst-nb could read it.
    "gallery/*.ipynb",
    "gallery/*.md5",
    "gallery/*.py",
    "gallery/*.zip",
    "gallery/*.json",
]

# The docstrings state the types, and the pages name the members.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
toc_object_entries_show_parents = "hide"
numpydoc_show_class_members = False

nb_execution_mode = "force"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_execution_show_tb = True
myst_enable_extensions = ["dollarmath"]

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"/plot_",
    "ignore_pattern": r"^(?!.*plot_\w+\.py$)",
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "abort_on_example_error": True,
    "remove_config_comments": True,
    "show_memory": False,
    "min_reported_time": 0,
    # Its page loads scripts from the network.
    "write_computation_times": False,
    "doc_module": ("skcce",),
    "backreferences_dir": "gallery/backreferences",
}

html_theme = "pydata_sphinx_theme"
html_title = f"{project} {release}"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_theme_options = {
    "header_links_before_dropdown": 6,
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": ["sphinx-version"],
}
# Without pages below them, there is nothing to show on the left.
_SINGLE = ("index", "start", "beside_kmeans", "texts", "api", "experiments")
html_sidebars = {page: [] for page in _SINGLE}
