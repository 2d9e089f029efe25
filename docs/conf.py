import shutil
from dataclasses import is_dataclass
from inspect import Parameter, signature
from pathlib import Path

from sphinx.addnodes import pending_xref
from sphinx.domains.python import PyObject

import cero_alloc

# Sphinx reads its own folder only: the notebook is copied at every build, so that there is one to maintain.
HERE = Path(__file__).parent
shutil.copy2(HERE.parent / "examples" / "from_log_to_decision.ipynb", HERE)

project = "cero-alloc"
author = "The cero-alloc developers"
copyright = "2026, the cero-alloc developers"
release = version = cero_alloc.__version__

extensions = [
    "myst_nb",  # Markdown, and the notebook as it was executed
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",  # the tables of names; the pages they link to are written by hand
    "sphinx.ext.napoleon",
    "sphinx-mathjax-offline",  # MathJax from the build itself: formulas show without a network
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
]
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the tests execute it
html_theme = "furo"
html_title = f"cero-alloc {release}"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
# A session is copied without prompts and output.
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True
exclude_patterns = ["_build", "jupyter_execute"]

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True  # as the source writes them
autosummary_generate = False
maximum_signature_line_length = 88
autodoc_typehints = "none"
autodoc_mock_imports = ["ray"]  # the page of its service is built without it
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
nitpicky = False
linkcheck_retries = 2
linkcheck_timeout = 30  # seconds
linkcheck_rate_limit_timeout = 120.0  # arXiv asks for pauses
linkcheck_workers = 2


def setup(app):
    app.connect("autodoc-process-signature", signature_of_constructor)
    app.connect("doctree-read", only_classes_are_links)
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"


def signature_of_constructor(app, what, name, item, options, shown, returned):
    """Show what a class takes: autodoc would show the ``__new__`` that notes the arguments."""
    if what != "class":
        return None
    if getattr(item, "_is_protocol", False) or (
        is_dataclass(item) and not hasattr(item, "__post_init__")
    ):
        return "", None  # nobody builds an interface or a result
    taken = signature(item)
    plain = [
        parameter.replace(annotation=Parameter.empty)
        for parameter in taken.parameters.values()
    ]
    text = str(taken.replace(parameters=plain, return_annotation=Parameter.empty))
    return text.replace(
        repr(cero_alloc.SaturatingUtility()), "SaturatingUtility()"
    ), None


def only_classes_are_links(app, doctree):
    """Unlink lower-case words of types: the n_prompts of a shape is not the property of some class."""
    for node in list(doctree.findall(pending_xref)):
        if (
            node.get("refspecific")
            and node["reftarget"][:1].islower()
            and node["reftype"] in ("class", "obj")
        ):
            node.replace_self(node.children)
