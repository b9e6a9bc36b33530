"""Metafiles, the table of weights and the pages agree about the published weights."""

import re

import mmengine
import pytest

from mmmobilemamba.weights import SCHEME, WEIGHTS

from .conftest import ROOT
from .test_docs import METAFILES, is_rounded, rows_of
from .test_runs.workplace import UNTRAINED

MODELS = [(path, model) for path in METAFILES for model in mmengine.load(path)['Models']]
METRICS = {'top-1': 'Top 1 Accuracy', 'box AP': 'box AP', 'mIoU': 'mIoU'}
BY_CONFIG = {weights.config: weights for weights in WEIGHTS}
TASKS = dict(classification='Image Classification', detection='Object Detection', segmentation='Semantic')


def is_trained(model):
    """Whether a model has results; starting points have none."""
    return 'Results' in model


def stem_of(model):
    return re.search(r'([^/]+)\.py$', model['Config'])[1]


def test_every_file_belongs_to_a_recipe():
    recipes = {stem_of(model) for _, model in MODELS if 'digits' not in model['Name'] and is_trained(model)}
    assert set(BY_CONFIG) == recipes and len(recipes) == len(WEIGHTS) == 19


@pytest.mark.parametrize('item', MODELS, ids=lambda item: item[1]['Name'])
def test_metafile_agrees_with_the_table(item):
    """URL and score agree; the entries of small twins say that there are no weights."""
    _, model = item
    weights = BY_CONFIG.get(stem_of(model))
    if weights is None:
        assert model['Weights'] == 'none at a public address; see checkpoints.md in docs'
        return
    assert model['Weights'] == weights.url
    (result,) = (each for each in model['Results'] if each['Task'].startswith(TASKS[weights.task]))
    assert result['Metrics'][METRICS[weights.metric]] == weights.score
    assert f'-{weights.arch}_' in model['Name']
    assert ('-kd_' in model['Name']) == weights.name.endswith('-kd')


def test_starting_points_say_so():
    """Metafile, README and config mark them as untrained, without any score."""
    found = [(path, model) for path, model in MODELS if not is_trained(model)]
    assert not any('digits' in model['Name'] for _, model in found)
    assert {path.parent.name for path, _ in found} == UNTRAINED
    for path, model in found:
        assert set(model['Metadata']) == {'Results Source', 'Parameters', 'FLOPs'}
        assert model['Metadata']['Results Source'] == 'none, not trained'
        assert 'nobody has trained' in ' '.join((ROOT / model['Config']).read_text().split('\n# '))
        page = path.with_name('README.md').read_text()
        assert '**A starting point.** Nobody has trained it' in page
        assert not re.search(r'(AP|mIoU|top-1) \d', page)


@pytest.mark.parametrize('metafile', METAFILES, ids=lambda path: path.parent.name)
def test_readme_names_the_weights(metafile):
    """Names are in the row of their config, with the score, and in no other row."""
    for name, cells in rows_of(metafile.with_name('README.md')).items():
        weights = BY_CONFIG.get(name.removesuffix('.py'))
        named = [cell for cell in cells if SCHEME in cell]
        assert named == ([f'`{SCHEME}{weights.name}`'] if weights else []), name
        assert weights is None or any(is_rounded(cell, weights.score) for cell in cells), name


@pytest.mark.parametrize('weights', WEIGHTS, ids=lambda weights: weights.name)
def test_form_of_the_address(weights):
    """mim uses the part after ``#`` as the file name; it equals that of the table and is not sent to servers.

    Google's response is not tested, because tests have no internet access.
    """
    assert re.fullmatch(r'[\w-]{33}', weights.drive_id)
    seen, _, _ = weights.url.partition('#')
    assert (
        seen
        == f'https://drive.usercontent.google.com/download?id={weights.drive_id}&export=download&confirm=t'
    )
    assert weights.url.split('/')[-1] == weights.file_name and ',' not in weights.url


def test_pages_name_no_other_weights():
    """Every ``mobilemamba://NAME`` in pages, configs and tools is in the table."""
    names = {weights.name for weights in WEIGHTS} | {'NAME'}
    paths = [
        path
        for folder in ('docs', 'configs', 'tools', 'mmmobilemamba')
        for path in (ROOT / folder).rglob('*')
    ]
    texts = [path for path in (*paths, ROOT / 'README.md') if path.suffix in ('.md', '.py', '.yml')]
    found = {
        (path.name, name)
        for path in texts
        for name in re.findall(r'mobilemamba://([a-zA-Z0-9-]+)', path.read_text(encoding='utf-8'))
    }
    assert {name for _, name in found} <= names, found
    assert len({name for _, name in found}) > 10
