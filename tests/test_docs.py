"""The pages: links, commands, and figures that agree with the metafiles."""

import copy
import re
from functools import cache
from pathlib import Path

import mmengine
import pytest
from mmengine.config import Config, DictAction
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.utils import get_installed_path

from mmmobilemamba.models.backbones.arch import resolve_arch

from .conftest import ROOT, load_script
from .helpers import needs_torch
from .pages import PAGES, blocks, commands, config_snippets, name_of
from .test_recipes.recipes import build

get_flops = load_script('tools/analysis_tools/get_flops.py')
CONFIGS = {path.name: path for path in (ROOT / 'configs').rglob('*.py') if '_base_' not in path.parts}
METAFILES = sorted((ROOT / 'configs').glob('*/metafile.yml'))
COMMANDS = [(page, words) for page in PAGES for words in commands(page)]
# Whose projects are not installed here; each has tests of its own.
PROJECTS = {path.name for path in (ROOT / 'configs/projects').rglob('*.py')}
RUNS = [
    (page, words)
    for page, words in COMMANDS
    if words[:2] in (['mim', 'train'], ['mim', 'test']) and words[3] not in PROJECTS
]
CHANGED = [(page, words) for page, words in RUNS if '--cfg-options' in words]
MIM_OPTIONS = {'--launcher', '--gpus', '--checkpoint'}
# Keys that no config has, each with what makes sure of it.
NEW_KEYS = {
    'model.backbone.deploy': lambda config, wrapper: build(config).backbone.deploy,
    'model.backbone.compile': lambda config, wrapper: (
        build(config).backbone.stages[0].blocks[0].region is not None
    ),
    'model.head.deploy': lambda config, wrapper: build(config).head.deploy,
    'optim_wrapper.constructor': lambda config, wrapper: spread(wrapper) > 2,
    'optim_wrapper.paramwise_cfg.layer_decay_rate': lambda config, wrapper: spread(wrapper) > 2,
    'model.teacher.checkpoint_path': lambda config, wrapper: config.model.teacher.type == 'TimmClassifier',
}


def spread(wrapper):
    """Number of different learning rates."""
    return len({group['lr'] for group in wrapper.optimizer.param_groups})


def label(item):
    return item[0].stem + '-' + '_'.join(word for word in item[1] if not word.startswith('-'))[:90]


def slugs(page):
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(
        r'^#+ (.*)$', re.sub(r'```.*?```', '', page.read_text(), flags=re.DOTALL), re.MULTILINE
    )
    return {re.sub(r'[^\w -]', '', heading.lower()).replace(' ', '-') for heading in headings}


@pytest.mark.parametrize('page', PAGES, ids=name_of)
def test_links(page):
    for link in re.findall(r'\]\(([^)]+)\)', page.read_text()):
        if link.startswith('http'):
            continue
        path, _, anchor = link.partition('#')
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in slugs(target), link


@pytest.mark.parametrize('page', PAGES, ids=name_of)
def test_no_gaps_and_no_machine(page):
    text = page.read_text()
    assert not re.findall(r'TODO\S*|DIGITS[A-Z]+', text)
    assert not re.findall(r'(?<![\w.])/(?:home|root|tmp|work|mnt|Users)/\S*', text)


@pytest.mark.parametrize('page', PAGES, ids=name_of)
def test_python_parses(page):
    for text in blocks(page, 'python'):
        compile(text, name_of(page), 'exec')


@cache
def resolve(name):
    return Config.fromfile(CONFIGS[name])


def config_of(page, words):
    """The config that a command names, or the parent of the page's own; and the codebase it is for."""
    name = Path(words[3]).name
    if name == 'mine.py':
        ((_, snippet),) = config_snippets(page)
        name = re.search(r"_base_ = .*?/([^/]+\.py)'", snippet, re.DOTALL)[1]
    assert name in CONFIGS, f'there is no config {name}'
    return name, resolve(name).default_scope


@pytest.mark.parametrize('item', RUNS, ids=label)
def test_train_and_test_commands(item):
    """The config exists under that name, is for that codebase, and the codebase's tool has the options."""
    page, words = item
    verb, package, path = words[1:4]
    name, codebase = config_of(page, words)
    if package == 'mmmobilemamba':
        assert '/' not in path
    else:
        assert package == codebase
        assert path == f'$CONFIGS/{CONFIGS[name].relative_to(ROOT / "configs").as_posix()}'
    assert ('--checkpoint' in words) == (verb == 'test')
    tool = Path(get_installed_path(codebase), '.mim', 'tools', f'{verb}.py').read_text()
    for option in {word for word in words if word.startswith('--')} - MIM_OPTIONS:
        assert f"'{option}'" in tool, option
    if '--gpus' in words:
        assert '--launcher' in words  # mim counts processes by it


def options_of(words):
    """What follows ``--cfg-options``, as the tools parse it."""
    start = words.index('--cfg-options') + 1
    pairs = []
    for word in words[start:]:
        if word.startswith('--'):
            break
        pairs.append(word.partition('='))
    return {key: DictAction._parse_iterable(value) for key, _, value in pairs}


def marked(item):
    """A command, which some versions of torch cannot run."""
    return pytest.param(item, marks=needs_torch('2.5')) if 'backbone.compile' in ' '.join(item[1]) else item


def has_key(config, key):
    for part in key.split('.'):
        if not isinstance(config, dict) or part not in config:
            return False
        config = config[part]
    return True


@pytest.mark.parametrize('item', list(map(marked, CHANGED)), ids=label)
def test_cfg_options(item):
    """Every key exists or has an effect; model and optimizer are built with them."""
    name, codebase = config_of(*item)
    config, options = copy.deepcopy(resolve(name)), options_of(item[1])
    before = config.to_dict()
    unknown = [key for key in options if not has_key(before, key)]
    assert set(unknown) <= set(NEW_KEYS), unknown
    config.merge_from_dict(options)
    assert config.to_dict() != before
    init_default_scope(codebase)
    model = build(config)
    if config.optim_wrapper.type == 'AmpOptimWrapper':  # refuses a CPU
        config.optim_wrapper.type = 'OptimWrapper'
    wrapper = build_optim_wrapper(model, config.optim_wrapper)
    assert all(NEW_KEYS[key](config, wrapper) for key in unknown)
    widths = resolve_arch(config.model.backbone.arch)['embed_dims']
    assert model.backbone.out_channels == tuple(widths[i] for i in model.backbone.out_indices)


def test_tools_exist():
    """`mim run PACKAGE NAME` runs the least deep file of that name; paths are those of the repository."""
    checked = 0
    for page, words in COMMANDS:
        if words[:2] == ['mim', 'run']:
            package, name, *arguments = words[2:]
            root = ROOT if package == 'mmmobilemamba' else Path(get_installed_path(package), '.mim')
            tools = sorted((root / 'tools').rglob(f'{name}.py'), key=lambda path: len(path.parts))
            depths = [len(path.parts) for path in tools]
            assert depths and depths.count(depths[0]) == 1, (name_of(page), name)
            text = tools[0].read_text()
            for word in arguments:
                assert not word.startswith('--') or f"'{word}'" in text or 'OPTIONS' in text, (name, word)
                if word.startswith('$CONFIGS/'):
                    assert (ROOT / 'configs' / word.removeprefix('$CONFIGS/')).is_file(), word
                if package == 'mmmobilemamba' and re.fullmatch(r'(?!my_)[\w-]+(_[\w-]+)+\.py', word):
                    assert word in CONFIGS, word
            checked += 1
        if words[0] == 'python' and words[1].endswith('.py'):
            assert (ROOT / words[1]).is_file(), (name_of(page), words[1])
            checked += 1
    assert checked > 1


def rows_of(page):
    """Cells of every row of a page's tables that links to a config, by the name of that file."""
    rows = {}
    for line in page.read_text().splitlines():
        found = re.search(r'\]\(([^)/]+\.py)\)', line)
        if line.startswith('|') and found:
            rows[found[1]] = [cell.strip() for cell in line.strip('|').split('|')]
    return rows


def length_of(config):
    """What a table calls the length of a training: iterations, or passes over the data."""
    dataset = config.train_dataloader.dataset
    return config.train_cfg.get('max_iters') or config.train_cfg.max_epochs * dataset.get('times', 1)


def is_rounded(text, value):
    """Whether ``text`` is ``value``, rounded to the decimals that it has."""
    if not re.fullmatch(r'\d+(\.\d+)?', text):
        return False
    decimals = len(text.partition('.')[2])
    return round(value, decimals) == float(text)


def flops_cell(model, config):
    """What a table says of a model's FLOPs, from its entry in a metafile, and of the input that has them."""
    number, (height, width) = model['Metadata']['FLOPs'], get_flops.default_shape(config)
    text = f'{number / 1e9:.2f} G' if number >= 1e9 else f'{number / 1e6:.1f} M'
    return f'{text}, {height} x {width}'


@pytest.mark.parametrize('metafile', METAFILES, ids=lambda path: path.parent.name)
def test_readme_agrees_with_metafile(metafile):
    """Every config of a folder is in its README, with the parameters, FLOPs and results of the metafile."""
    rows = rows_of(metafile.with_name('README.md'))
    models = mmengine.load(metafile)['Models']
    assert set(rows) == {Path(model['Config']).name for model in models}
    assert set(rows) == {name for name, path in CONFIGS.items() if path.parent == metafile.parent}
    for model in models:
        name = Path(model['Config']).name
        cells = rows[name]
        assert str(length_of(resolve(name))) in [cell.replace(',', '') for cell in cells]
        if 'Results' not in model:  # a starting point
            assert cells[-2:] == ['not trained', f'{model["Metadata"]["Parameters"] / 1e6:.2f} M']
            continue
        assert cells[-2] == f'{model["Metadata"]["Parameters"] / 1e6:.2f} M', model['Name']
        assert cells[-1] == flops_cell(model, resolve(name)), model['Name']
        values = [value for result in model.get('Results', []) for value in result['Metrics'].values()]
        for value in values:
            assert any(is_rounded(cell, value) for cell in cells), (model['Name'], value)
        assert ('authors' in ' '.join(cells)) == ('digits' not in model['Name'])
        assert values, model['Name']


def test_the_first_table():
    """README's results and parameters are those of the metafiles, plain and distilled."""
    models = {}
    for path in METAFILES:
        for model in mmengine.load(path)['Models']:
            if 'digits' not in model['Name'] and 'Results' in model:
                models[model['Name']] = model
    text = (ROOT / 'README.md').read_text().partition('| model | input |')[2].partition('\n\n')[0]
    rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in text.splitlines()[2:]]
    assert len(rows) == 12
    used = set()
    for name, _, parameters, result, distilled, *_ in rows:
        words = re.sub(r'\[(.*?)\].*', r'\1', name)
        folder = re.search(r'configs/(\w+)/', name)
        pattern = rf'mobilemamba-{words.lower()}_' if len(words) == 2 else rf'(?i){words[-2:]}_'
        found = [
            model
            for key, model in models.items()
            if re.search(pattern, key) and (len(words) == 2 or f'/{folder[1]}/' in model['Config'])
        ]
        used.update(model['Name'] for model in found)
        plain = [model for model in found if '-kd' not in model['Name']]
        numbers = re.findall(r'[\d.]+', re.sub(r'top-1', '', result))
        wanted = [value for model in plain for value in primary(model)]
        assert all(is_rounded(text, value) for text, value in zip(numbers, wanted)), name
        assert len(numbers) == len(wanted) > 0
        assert {f'{model["Metadata"]["Parameters"] / 1e6:.2f} M' for model in found} == {parameters}
        taught = [value for model in found if '-kd' in model['Name'] for value in primary(model)]
        assert [distilled] == ([f'{value:.1f}' for value in taught] or ['']), name
    assert used == set(models)


def primary(model):
    """The metrics of a model in a metafile that tables lead with."""
    metrics = [pair for result in model['Results'] for pair in result['Metrics'].items()]
    return [value for key, value in metrics if not key.startswith('Top 5')]
