"""How the documentation is built: `make docs`, sources in docs/, result in build/docs/.

Nothing is fetched from the network and no notebook is executed: the notebooks come with their
outputs (`make notebooks`), the results with the tables in results/.
"""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

import mathml
import reference

project = "gbi_pyro"
version = release = importlib.metadata.version("gbi-pyro")
author = "the gbi_pyro developers"

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "myst_nb",
    "docstrings",
    "mathml",
    "pages",
]
templates_path = ["_templates"]
exclude_patterns = ["_generated"]

html_theme = "furo"
html_title = "gbi_pyro"
html_static_path = ["_static", str(mathml.font())]
html_css_files = ["pages.css"]
html_math_renderer = "mathml"
html_show_copyright = False
html_show_sourcelink = False
pygments_style = "friendly"
highlight_language = "none"  # of literal blocks; examples are Python all the same
smartquotes_action = "D"  # dashes alone: an apostrophe may be a transpose

myst_enable_extensions = ["dollarmath", "amsmath", "attrs_inline", "deflist", "colon_fence"]
myst_heading_anchors = 3
myst_update_mathjax = False
nb_execution_mode = "off"

autosummary_generate = True
autosummary_context = {"imports": reference.import_lines()}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {
    "members": True,
    # Metadata routing, which scikit-learn writes into its estimators, with references to its pages.
    "exclude-members": "set_fit_request, set_predict_request, set_predict_proba_request, "
    "set_score_request, set_score_samples_request, get_metadata_routing",
}
autodoc_type_aliases = {"ArrayLike": "ArrayLike"}
autoclass_content = "class"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # attributes stand in the class's own docstring, once
napoleon_use_rtype = False
add_module_names = False  # a page says above each name where it is imported from
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
toc_object_entries_show_parents = "hide"

# With -n every reference must resolve, but for those to other projects, whose inventories would
# have to be fetched, and to what is private.
nitpick_ignore_regex = [(r"py:.*", r"(?!gbi_pyro\b).*"), (r"py:.*", r"gbi_pyro\..*\b_\w+.*")]
nitpick_ignore = [  # a type variable
    (f"py:{role}", "gbi_pyro.metrics.prequential.State") for role in ("class", "obj")
]
