import shutil
from pathlib import Path

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
copybutton_prompt_text = r">>> |\.\.\. "  # a session is copied without prompts and output
copybutton_prompt_is_regexp = True
exclude_patterns = ["_build"]

autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_google_docstring = False
napoleon_use_ivar = True  # attributes of results are no link targets: their names recur as shapes
napoleon_use_rtype = False
nitpicky = False
linkcheck_retries = 2
linkcheck_timeout = 30  # seconds
linkcheck_rate_limit_timeout = 120.0  # arXiv asks for pauses
linkcheck_workers = 2
suppress_warnings = ["ref.python"]  # shapes again: n_prompts is the name of several attributes, and a link to none
