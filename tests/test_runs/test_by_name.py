"""``--checkpoint mobilemamba://NAME`` in our test command and in those of the codebases."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from PIL import Image

from mmmobilemamba.utils import config_path
from mmmobilemamba.weights import weights_of

from ..authors_files import assert_holds, runner_file, state_dict_of
from ..commands import run
from ..conftest import authors_checkpoint
from .workplace import small_config


@pytest.fixture
def published(at_work, tmp_path, monkeypatch):
    """An empty folder in which names are looked up."""
    monkeypatch.setenv('MMMOBILEMAMBA_WEIGHTS', str(tmp_path / 'weights'))
    (tmp_path / 'weights').mkdir()
    return tmp_path / 'weights'


def config_of(name, folder):
    """A recipe for two small images, written to a file; its path and the config."""
    config = small_config(Path(config_path(weights_of(name).config)), folder)
    config.log_level = 'INFO'
    config.dump(folder / 'small.py')
    return folder / 'small.py', config


def mim_test(package, config, name, *options):
    """The output of `mim test` with the weights of a name."""
    command = ('mim', 'test', package, config, '--checkpoint', f'mobilemamba://{name}', *options)
    output = run(*command, cwd=Path.cwd())
    assert f'Load checkpoint from mobilemamba://{name}' in output
    return output


def publish(name, published, folder):
    """Write a whole model's file where names are looked up; its path, and its :func:`config_of`."""
    path = published / weights_of(name).file_name
    torch.save(runner_file(state_dict_of(name)), path)
    return path, *config_of(name, folder)


@pytest.mark.slow
def test_classifier_by_bare_name(published, tmp_path):
    """Scores equal those of the file given by its path."""
    mmpretrain = pytest.importorskip('mmpretrain')
    torch.save(authors_checkpoint('t2'), published / 'mobilemamba_t2.pth')
    options = ('test_dataloader.dataset.indices=2', 'test_dataloader.num_workers=0')
    options += ('test_dataloader.persistent_workers=False', 'env_cfg.mp_cfg.opencv_num_threads=1')
    config = f'{weights_of("t2").config}.py'
    command = (config, 't2', '--work-dir', tmp_path, '--out', tmp_path / 'scores.pkl')
    mim_test('mmmobilemamba', *command, '--cfg-options', *options)
    found = pickle.loads((tmp_path / 'scores.pkl').read_bytes())
    path = str(published / 'mobilemamba_t2.pth')
    init_default_scope('mmpretrain')  # other tests change the default scope
    classifier = mmpretrain.ImageClassificationInferencer(config_path(config), pretrained=path)
    expected = classifier([each['img_path'] for each in found])
    assert len(found) == 2
    for one, other in zip(found, expected):
        other = torch.as_tensor(other['pred_scores'])
        torch.testing.assert_close(one['pred_score'], other, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_classifier_in_mmpretrain(published, tmp_path):
    pytest.importorskip('mmpretrain')
    torch.save(authors_checkpoint('t2'), published / 'mobilemamba_t2s.pth')
    config, _ = config_of('t2-kd', tmp_path)
    output = mim_test('mmpretrain', config, 't2-kd', '--work-dir', tmp_path)
    assert 'accuracy/top1' in output


@pytest.mark.slow
def test_detector_in_mmdet(published, tmp_path):
    """For the authors' whole file, boxes equal those of the file given by its path."""
    pytest.importorskip('mmdet')
    from mmdet.apis import inference_detector, init_detector

    name = 'retinanet-b1'
    path, config, _ = publish(name, published, tmp_path)
    output = mim_test('mmdet', config, name, '--work-dir', tmp_path, '--out', tmp_path / 'boxes.pkl')
    assert 'coco/bbox_mAP' in output and 'do not match' not in output
    found = pickle.loads((tmp_path / 'boxes.pkl').read_bytes())
    model = init_detector(str(config), str(path), device='cpu')
    assert len(found) == 2
    for one in found:
        other = inference_detector(model, one['img_path']).pred_instances
        assert len(one['pred_instances']['scores']) == len(other['scores']) > 0
        torch.testing.assert_close(one['pred_instances']['bboxes'], other['bboxes'], rtol=1e-4, atol=1e-3)


@pytest.mark.slow
def test_training_goes_on_from_a_whole_model(published, tmp_path):
    """`load_from`, as in the docs: training starts from all weights of the file."""
    pytest.importorskip('mmdet')
    name = 'retinanet-b1'
    state_dict = state_dict_of(name)
    torch.save(runner_file(state_dict), published / weights_of(name).file_name)
    _, config = config_of(name, tmp_path)
    config.merge_from_dict({'load_from': f'mobilemamba://{name}', 'model.backbone.init_cfg': None})
    config.optim_wrapper.optimizer.lr = 0.0  # steps do not change the weights
    runner = Runner.from_cfg(config)
    runner.train()
    assert runner.iter == 1
    assert_holds(runner.model, state_dict)


@pytest.mark.slow
def test_segmentor_in_mmseg(published, tmp_path):
    """For the authors' whole file, maps equal those of the file given by its path."""
    pytest.importorskip('mmseg')
    from mmseg.apis import inference_model, init_model

    name = 'sem-fpn-b4'
    path, config, small = publish(name, published, tmp_path)
    small.test_pipeline = small.test_dataloader.dataset.pipeline  # read by inference_model
    output = mim_test('mmseg', config, name, '--work-dir', tmp_path, '--out', tmp_path / 'maps')
    assert 'mIoU' in output and 'do not match' not in output
    model = init_model(small, str(path), device='cpu')
    files = sorted((tmp_path / 'maps').glob('*.png'))
    assert len(files) == 2
    root = Path(small.test_dataloader.dataset.data_root, 'images/validation')
    for file in files:
        expected = inference_model(model, str(root / f'{file.stem}.jpg')).pred_sem_seg.data[0].numpy()
        np.testing.assert_array_equal(np.asarray(Image.open(file)), expected + 1)  # labels start at 1
        assert len(np.unique(expected)) > 1
