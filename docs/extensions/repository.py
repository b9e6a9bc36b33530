"""Pages and links beyond ``docs``, so that what reads well on GitHub does on the site.

- Pages elsewhere in the repository, such as those of the recipes, are copied to ``docs/repository`` before
  the pages are read; notebooks as pages of their texts and code.
- Relative links, of these and of the pages in ``docs``, lead to pages of the site where there is one, and
  else to a page with the source of the file, or with the contents of the folder. A link to nothing is a
  warning.
"""

import html
import json
import os
import re
import shutil
from pathlib import Path

from docutils import nodes
from pygments.lexers import get_lexer_for_filename
from pygments.util import ClassNotFound
from sphinx.highlighting import PygmentsBridge
from sphinx.util import logging

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / 'docs'
COPIES = DOCS / 'repository'
OUTSIDE = ('*.md', 'configs/*/README.md', 'demo/*.ipynb', 'examples/*/README.md')
NOTEBOOK = '.ipynb'
LINK = re.compile(r'(?<=\]\()([^)\s]+)(?=\))')
FENCES = re.compile(r'(^ *```.*?^ *```$)', re.DOTALL | re.MULTILINE)
SCHEME = 'source:'
logger = logging.getLogger(__name__)


def pages_outside():
    """Pages of the repository that are not in ``docs`` (list[Path])."""
    return sorted(path for pattern in OUTSIDE for path in ROOT.glob(pattern))


def copy_pages(app):
    """Make ``docs/repository`` anew; files that have not changed keep their times."""
    wanted = {COPIES / page.relative_to(ROOT).with_suffix('.md'): page for page in pages_outside()}
    for old in set(COPIES.rglob('*.md')) - set(wanted):
        old.unlink()
    for copy, page in wanted.items():
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(text_of(page), encoding='utf-8')
        shutil.copystat(page, copy)


def text_of(page):
    """A page, or a notebook, as Markdown (str)."""
    text = page.read_text(encoding='utf-8')
    if page.suffix != NOTEBOOK:
        return text
    cells = [(cell['cell_type'], ''.join(cell['source'])) for cell in json.loads(text)['cells']]
    return '\n\n'.join(source if kind == 'markdown' else code_block(source) for kind, source in cells) + '\n'


def code_block(source):
    """The code of a notebook's cell between fences; commands without what marks them as such (str)."""
    if source.startswith('!'):
        return f'```bash\n{source[1:]}\n```'
    magic = re.search(r'^ *[!%]', source, re.MULTILINE)  # no Python to the highlighter
    return f'```{"text" if magic else "python"}\n{source}\n```'


def origin(docname):
    """The file of the repository that a page of the site shows (Path)."""
    page = DOCS / f'{docname}.md'
    if not page.is_relative_to(COPIES):
        return page
    found = ROOT / page.relative_to(COPIES)
    return found if found.is_file() else found.with_suffix(NOTEBOOK)


def resolve(link, page):
    """Where a link of a page leads on the site, or None if there is no such file.

    Args:
        link (str): As it is written in the page, perhaps with an anchor.
        page (Path): The file that it is written in.

    Returns:
        str: A page of the site, from its root; or a path of the repository behind ``SCHEME``.
    """
    if re.match(r'[a-z]+:|#', link):
        return link
    path, hash_, anchor = link.partition('#')
    target = Path(os.path.normpath(page.parent / path))
    if not target.exists() or not target.is_relative_to(ROOT):
        return None
    if target == DOCS:
        return '/index.md'
    if target.is_relative_to(DOCS):
        return f'/{target.relative_to(DOCS).as_posix()}{hash_}{anchor}'
    if target in pages_outside():
        copy = Path(COPIES.name) / target.relative_to(ROOT).with_suffix('.md')
        return f'/{copy.as_posix()}{hash_}{anchor}'
    return f'{SCHEME}{target.relative_to(ROOT).as_posix()}'


def rewrite_links(app, docname, source):
    """Let the links of a page lead to pages of the site; code blocks stay as they are."""

    def replace(match):
        found = resolve(match[1], origin(docname))
        if found is None:
            logger.warning('there is no file %s', match[1], location=docname, type='repository')
        return found or match[1]

    parts = FENCES.split(source[0])
    parts[::2] = [LINK.sub(replace, part) for part in parts[::2]]
    source[0] = ''.join(parts)


def collect_links(app, doctree, docname):
    """Point links with ``SCHEME`` to the pages of sources, and note which of these are needed."""
    if app.builder.format != 'html':
        return
    for node in doctree.findall(nodes.reference):
        if node.get('refuri', '').startswith(SCHEME):
            path = node['refuri'].removeprefix(SCHEME)
            node['refuri'] = app.builder.get_relative_uri(docname, f'source/{path}')


def linked_sources():
    """Paths of the repository that pages link to (set[str])."""
    found = set()
    for page in (*pages_outside(), *DOCS.rglob('*.md')):
        if not page.is_relative_to(COPIES):
            text = ''.join(FENCES.split(text_of(page))[::2])
            targets = (resolve(link, page) for link in LINK.findall(text))
            found |= {
                target.removeprefix(SCHEME) for target in targets if target and target.startswith(SCHEME)
            }
    return found


def source_pages(app):
    """A page for each file and folder that pages link to."""
    paths = linked_sources()
    highlighter = PygmentsBridge('html', app.config.pygments_style)
    for path in sorted(paths):
        content = folder_listing(app, path, paths) if (ROOT / path).is_dir() else highlight(highlighter, path)
        yield f'source/{path}', {'title': path, 'body': f'<h1>{html.escape(path)}</h1>{content}'}, 'page.html'


def highlight(highlighter, path):
    """A file of the repository as HTML (str)."""
    try:
        lexer = get_lexer_for_filename(path).aliases[0]
    except ClassNotFound:
        lexer = 'text'
    return highlighter.highlight_block((ROOT / path).read_text(encoding='utf-8'), lexer, linenos=False)


def folder_listing(app, folder, paths):
    """Files and folders of a folder as HTML (str), as links where they have a page."""
    rows = []
    for entry in sorted((ROOT / folder).iterdir(), key=lambda entry: (entry.is_file(), entry.name)):
        if entry.name.startswith(('.', '_')) and entry.name not in ('__init__.py', '_base_'):
            continue
        path, name = (
            entry.relative_to(ROOT).as_posix(),
            html.escape(entry.name) + ('/' if entry.is_dir() else ''),
        )
        if path in paths:
            name = (
                f'<a href="{app.builder.get_relative_uri(f"source/{folder}", f"source/{path}")}">{name}</a>'
            )
        rows.append(f'<li><code>{name}</code></li>')
    return f'<ul>{"".join(rows)}</ul>'


def setup(app):
    app.connect('builder-inited', copy_pages)
    app.connect('source-read', rewrite_links)
    app.connect('doctree-resolved', collect_links)
    app.connect('html-collect-pages', source_pages)
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
