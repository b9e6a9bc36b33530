"""The authors' detectors and segmentors load strictly into our recipes; each tensor is compared."""

import pytest
import torch
from mmengine.registry import MODELS
from mmengine.runner import load_checkpoint

from mmmobilemamba.deployment.build import load_model
from mmmobilemamba.models.deploy import deploy
from mmmobilemamba.weights import WEIGHTS, weights_of

from ..authors_files import COUNTS, WHOLE, assert_holds, count_of, runner_file, shapes_of, state_dict_of
from .recipes import DETECTORS, RECIPES, SEGMENTORS, load

BY_CONFIG = {path.rpartition('/')[2]: name for name, path in {**DETECTORS, **SEGMENTORS}.items()}


def model_of(name):
    """The model of the matching recipe, with other values than the file's."""
    config = load(BY_CONFIG[weights_of(name).config])
    config.model.backbone.init_cfg = None
    return MODELS.build(config.model)


def test_all_seven_are_here():
    assert set(WHOLE) == {weights.name for weights in WEIGHTS if weights.task != 'classification'}
    assert (
        {weights_of(name).config for name in WHOLE}
        == set(BY_CONFIG)
        <= {path.rpartition('/')[2] for path in RECIPES.values()}
    )


@pytest.mark.parametrize('name', WHOLE)
def test_counts_of_the_logs(name):
    """The shapes in authors_files.py have the number of parameters in the authors' logs."""
    shapes = shapes_of(name)
    assert {part: count_of(shapes, part) for part in COUNTS[name]} == COUNTS[name]
    assert {key.partition('.')[0] for key in shapes} == set(COUNTS[name])


@pytest.mark.parametrize('name', WHOLE)
def test_loads_strictly(name, tmp_path):
    """As saved by a training, with log and optimizer."""
    state_dict = state_dict_of(name)
    torch.save(runner_file(state_dict), tmp_path / 'authors.pth')
    model = model_of(name)
    load_checkpoint(model, str(tmp_path / 'authors.pth'), strict=True)
    assert_holds(model, state_dict)


@pytest.mark.parametrize('name', ['retinanet-b1', 'sem-fpn-b4'])
@pytest.mark.parametrize('form', ['flat', 'module'])
def test_other_forms(name, form, tmp_path):
    """A plain state dict, as published, and a state dict of a wrapper for several GPUs."""
    state_dict = state_dict_of(name)
    prefix = 'module.' if form == 'module' else ''
    torch.save({f'{prefix}{key}': value for key, value in state_dict.items()}, tmp_path / 'authors.pth')
    model = model_of(name)
    load_checkpoint(model, str(tmp_path / 'authors.pth'), strict=True)
    assert_holds(model, state_dict)


@pytest.mark.parametrize(
    ('key', 'message'),
    [
        ('neck.extra_trans_convs.0.conv.weight', r'missing keys in source.*neck\.extra_trans_convs\.0'),
        ('backbone.blocks1.0.dw0.m.c.weight', r'1 missing: stages\.0\.blocks\.0\.dw0'),
    ],
)
def test_a_missing_tensor_is_an_error(key, message, tmp_path):
    state_dict = state_dict_of('retinanet-b1')
    del state_dict[key]
    torch.save(runner_file(state_dict), tmp_path / 'authors.pth')
    with pytest.raises(RuntimeError, match=message):
        load_checkpoint(model_of('retinanet-b1'), str(tmp_path / 'authors.pth'), strict=True)


@pytest.mark.parametrize('name', WHOLE)
def test_export_reads_the_same(name, tmp_path, monkeypatch):
    """The exported network has the values of the named file, with batch norms folded."""
    monkeypatch.setenv('MMMOBILEMAMBA_WEIGHTS', str(tmp_path))
    path = tmp_path / weights_of(name).file_name
    torch.save(runner_file(state_dict_of(name), dataset_meta=dict(classes=('a', 'b'))), path)
    exported = load_model(load(BY_CONFIG[weights_of(name).config]), f'mobilemamba://{name}')
    model = model_of(name)
    load_checkpoint(model, str(path), strict=True)
    deploy(model)
    found, expected = exported.state_dict(), model.state_dict()
    assert found.keys() == expected.keys()
    assert [key for key in found if not torch.equal(found[key], expected[key])] == []
    assert exported.dataset_meta == dict(classes=('a', 'b'))
