"""The Markdown pages and notebooks of the repository, their code blocks and commands."""

import json
import re
import shlex

from .conftest import ROOT

PAGES = [
    *sorted(ROOT.glob('*.md')),
    *sorted((ROOT / 'docs').glob('*.md')),
    *sorted((ROOT / 'docs/dev').glob('*.md')),
    *sorted((ROOT / 'configs').rglob('*.md')),
]
NOTEBOOKS = sorted((ROOT / 'demo').glob('*.ipynb'))


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def blocks(page, language):
    """Code blocks of a page, in a language like ``'python'``."""
    return re.findall(rf'^```{language}\n(.*?)^```', page.read_text(), flags=re.DOTALL | re.MULTILINE)


def commands(page):
    """Commands in the ``bash`` blocks of a page, each a list of words, without comments and pipes."""
    text = '\n'.join(blocks(page, 'bash')).replace('\\\n', ' ')
    lines = [line.split(' | ')[0] for line in text.splitlines()]
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def config_snippets(*pages):
    """Configs among the Python blocks of pages: pairs of an identifier and a text."""
    found = []
    for page in pages:
        texts = [text for text in blocks(page, 'python') if '_base_ =' in text]
        found += [(f'{page.stem}-{number}', text) for number, text in enumerate(texts)]
    return found


def cells(notebook, kind):
    """Texts of a notebook's cells of a kind, ``'code'`` or ``'markdown'``."""
    content = json.loads(notebook.read_text())
    return [''.join(cell['source']) for cell in content['cells'] if cell['cell_type'] == kind]


def shell_commands(notebook):
    """Commands that a notebook runs in a shell, all but those of its first cell, each a list of words.

    Names of configs are put in for ``{CONFIG}``.
    """
    text = '\n'.join(cells(notebook, 'code')[1:]).replace('\\\n', ' ')
    config = re.search(r"^CONFIG = '(.*?)'", text, re.MULTILINE)
    if config:
        text = text.replace('{CONFIG}', config[1])
    return [shlex.split(line[1:]) for line in text.splitlines() if line.startswith('!')]
