"""The site: `make docs` builds it with requirements/docs.txt, and nothing else installed."""

import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'docs' / 'extensions')]

project = 'mmmobilemamba'
author = 'the mmmobilemamba contributors'
copyright = f'2026, {author}'
release = version = runpy.run_path(str(ROOT / 'mmmobilemamba' / 'version.py'))['__version__']

extensions = [
    'myst_parser',
    'sphinx.ext.autodoc',
    'sphinx.ext.napoleon',
    'sphinx.ext.viewcode',
    'sphinx_copybutton',
    'mathml',
    'package',
    'repository',
    'zoo',
]
exclude_patterns = ['extensions', 'static']
suppress_warnings = ['myst.header']  # pages of recipes begin where it suits them

# Pages: GitHub's anchors, and links to files of the repository (see extensions/repository.py).
myst_heading_anchors = 6
myst_url_schemes = {'http': None, 'https': None, 'mailto': None, 'source': None}
# Docstrings: Google style, types of arguments as the docstrings have them.
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # an attribute may be documented by its class and by itself
autodoc_typehints = 'signature'
autodoc_typehints_format = 'short'
autodoc_member_order = 'bysource'
autodoc_default_options = {'members': True}
python_display_short_literal_types = True

html_math_renderer = 'mathml'
html_theme = 'furo'
html_title = f'mmmobilemamba {release}'
html_static_path = ['static']
html_css_files = ['site.css']
html_copy_source = False
html_show_sphinx = False
# Pages are read in many sizes; long lines of configs scroll.
pygments_style, pygments_dark_style = 'friendly', 'monokai'
highlight_language = 'none'  # blocks without a language are outputs

linkcheck_anchors = False  # of pages that scripts make
linkcheck_timeout = 20
linkcheck_retries = 2
