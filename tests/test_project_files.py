"""Files for contributors and releases: workflows, hooks, templates, the citation."""

import re

import pytest
import yaml

from mmmobilemamba import __version__

from .conftest import ROOT
from .pages import NOTEBOOKS, PAGES

WORKFLOWS = sorted((ROOT / '.github/workflows').glob('*.yml'))
MAKEFILE = (ROOT / 'Makefile').read_text()
TARGETS = set(re.findall(r'^([\w-]+):', MAKEFILE, re.MULTILINE))


def jobs_of(path):
    return yaml.safe_load(path.read_text())['jobs']


def commands_of(job):
    """Lines of all ``run`` steps of a workflow's job."""
    steps = job.get('steps', [])
    return [line for step in steps for line in step.get('run', '').splitlines()]


def test_the_workflows():
    assert [path.stem for path in WORKFLOWS] == ['docs', 'lint', 'release', 'tests', 'wheels']


@pytest.mark.parametrize('path', WORKFLOWS, ids=lambda path: path.stem)
def test_workflow(path):
    """Its commands and dependencies exist, it has a timeout, and it only has read permissions by default."""
    workflow, jobs = yaml.safe_load(path.read_text()), jobs_of(path)
    assert workflow[True]  # `on` in YAML 1.1
    assert workflow['permissions'] == {'contents': 'read'}
    for name, job in jobs.items():
        if 'uses' in job:  # another workflow
            assert (ROOT / job['uses']).is_file()
            continue
        assert 0 < job['timeout-minutes'] <= 240, name
        needs = job.get('needs', [])
        assert set([needs] if isinstance(needs, str) else needs) <= set(jobs), name
        text = '\n'.join(commands_of(job))
        assert set(re.findall(r'^make ([\w-]+)', text, re.MULTILINE)) <= TARGETS
        for file in re.findall(r'(?:requirements|tools|tests)/[\w/.-]+', text):
            assert (ROOT / file).exists(), file
        for step in job['steps']:
            assert ('run' in step) != ('uses' in step)
            assert re.fullmatch(r'[\w./-]+@(v\d+|release/v\d+)', step.get('uses', 'a@v1'))


def test_linux_is_tested_with_every_set_of_versions():
    linux = jobs_of(ROOT / '.github/workflows/tests.yml')['linux']
    sets = {path.stem for path in (ROOT / 'requirements/versions').glob('torch*.txt')}
    assert {'', 'torch2.1', 'torch2.6'} <= set(linux['strategy']['matrix']['versions']) == {'', *sets}
    assert 'make test VERSIONS=${{ matrix.versions }} JOBS=4' in commands_of(linux)


def test_hooks_are_those_of_make_lint():
    """The same programs in the same versions."""
    (repository,) = yaml.safe_load((ROOT / '.pre-commit-config.yaml').read_text())['repos']
    pins = (ROOT / 'requirements/lint.txt').read_text().splitlines()[1:]
    assert {pin for hook in repository['hooks'] for pin in hook['additional_dependencies']} == set(pins)
    recipe = re.search(r'^lint: .*\n((?:\t.*\n)+)', MAKEFILE, re.MULTILINE)[1]
    linted = [re.sub(r'"\$\(LINT\)/(\w+)"', r'\1', line.strip()) for line in recipe.splitlines()]
    hooks = [hook['entry'].replace(' --force-exclude', '') for hook in repository['hooks']]
    assert hooks == [line.removesuffix(' .') for line in linted]


def test_templates_ask_for_the_environment():
    command = 'python -m mmmobilemamba.utils.collect_env'
    forms = [path for path in (ROOT / '.github/ISSUE_TEMPLATE').glob('*.yml') if path.stem != 'config']
    assert len(forms) == 2
    for form in forms:
        fields = {field.get('id'): field for field in yaml.safe_load(form.read_text())['body']}
        assert command in fields['env']['attributes']['description']
    assert fields.keys() >= {'what', 'env'}
    assert command in (ROOT / '.github/PULL_REQUEST_TEMPLATE.md').read_text()


def test_citation():
    """It has the version of the package and the authors named in the README."""
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert citation['version'] == __version__
    names = [
        f'{author["given-names"]} {author["family-names"]}'
        for author in citation['preferred-citation']['authors']
    ]
    credit = (ROOT / 'README.md').read_text().rpartition('## Licence and credit')[2]
    assert f'{", ".join(names[:-1])} and {names[-1]}' in ' '.join(credit.split())
    assert citation['preferred-citation']['url'] in credit


def test_the_version_is_written_once():
    assert (ROOT / 'mmmobilemamba/version.py').read_text() == f"__version__ = '{__version__}'\n"
    for file in ('setup.py', 'pyproject.toml', 'README.md'):
        assert __version__ not in (ROOT / file).read_text(), file
    newest = re.search(r'^## (\S+)', (ROOT / 'CHANGELOG.md').read_text(), re.MULTILINE)[1]
    assert newest in ('Unreleased', __version__)


def test_quick_runs_what_there_is():
    """It runs each existing file or folder once, and CONTRIBUTING mentions it."""
    recipe = re.search(r'^QUICK := \$\(addprefix tests/,(.*?)\)$', MAKEFILE, re.MULTILINE | re.DOTALL)[1]
    names = recipe.replace('\\\n', ' ').split()
    assert len(names) == len(set(names)) > 10
    for name in names:
        assert (ROOT / 'tests' / name).exists(), name
    assert 'make quick' in (ROOT / 'CONTRIBUTING.md').read_text()


def toctrees(page):
    """Entries of a page's toctrees, as paths relative to ``docs`` without extension."""
    found = []
    for text in re.findall(r'^```{toctree}\n(.*?)^```', page.read_text(), re.DOTALL | re.MULTILINE):
        entries = [line for line in text.splitlines() if line and not line.startswith(':')]
        paths = [re.sub(r'.*<(.*)>', r'\1', entry) for entry in entries]
        found += [(page.parent / path).relative_to(ROOT / 'docs').as_posix() for path in paths]
    return found


def test_every_page_is_in_the_site():
    """Every page is in a toctree once, and toctrees have no missing pages."""
    docs = ROOT / 'docs'
    pages = [page for page in docs.rglob('*.md') if docs / 'repository' not in page.parents]
    entries = [entry for page in pages for entry in toctrees(page)]
    inside = [entry for entry in entries if not entry.startswith('repository/')]
    assert sorted([*inside, 'index']) == sorted(
        page.relative_to(docs).with_suffix('').as_posix() for page in pages
    )
    outside = [entry.removeprefix('repository/') for entry in set(entries) - set(inside)]
    patterns = [f'{entry}{suffix}' for entry in outside for suffix in ('.md', '.ipynb')]
    files = [page for pattern in patterns for page in ROOT.glob(pattern)]
    others = [*PAGES, *NOTEBOOKS, *ROOT.glob('examples/*/*.md')]
    assert sorted(files) == sorted(page for page in others if docs not in page.parents)
