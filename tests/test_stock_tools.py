"""Common tools of mmpretrain, mmdet and mmseg with our unmodified configs.

mmseg's get_flops.py is excluded: with mmengine 0.10 and later, it fails for every model with
``"input_shape" and "inputs" cannot be both set``. Ours supports all three codebases.
"""

import importlib.util
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image
from torch.nn.modules.batchnorm import _BatchNorm

from .commands import run
from .conftest import ROOT, load_script

pytestmark = pytest.mark.slow
get_flops = load_script('tools/analysis_tools/get_flops.py')
reparameterize_model = load_script('tools/model_converters/reparameterize_model.py')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """8 training and 4 validation scenes at the paths used by the configs."""
    folder = tmp_path_factory.mktemp('stock_tools')
    script = load_script('tools/dataset_converters/digits_scenes.py')
    script.main([str(folder / 'data/digits_scenes'), '--train', '8', '--val', '4'])
    return folder


def prepare(pattern, folder):
    """Paths of a config and of a checkpoint with random weights in every branch."""
    (path,) = (ROOT / 'configs').glob(pattern)
    config = Config.fromfile(path)
    init_default_scope(config.default_scope)
    torch.manual_seed(0)
    model = MODELS.build({'data_preprocessor': config.get('data_preprocessor'), **config.model})
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            torch.nn.init.ones_(module.weight)
    checkpoint = folder / f'{config.default_scope}.pth'
    torch.save(dict(meta=dict(), state_dict=model.state_dict()), checkpoint)
    return path, checkpoint


def run_tools(codebase, *commands, cwd):
    """Run tools, given by their path in the codebase's ``tools`` and their arguments; returns the outputs."""
    tools = Path(importlib.util.find_spec(codebase).origin).parent / '.mim/tools'
    return [run('python', tools / tool, *arguments, cwd=cwd) for tool, *arguments in commands]


def assert_flops(output, path, shape):
    """A stock get_flops.py prints our FLOPs in billions, without the operations that it does not count."""
    model, images, data_samples = get_flops.build(Config.fromfile(path), shape)
    flops, portions = get_flops.count_flops(model, images, data_samples)
    head = flops['head'] if path.parent.name == 'mobilemamba' else 0  # not counted by mmpretrain's
    seen = flops[''] - portions['scan'] - portions['Haar transforms'] - head
    assert float(re.search(r'Flops: ([\d.]+)G', output)[1]) == pytest.approx(seen / 1e9, abs=6e-4)


def pixels(path):
    """An image as (H, W, 3)."""
    return np.asarray(Image.open(path).convert('RGB'))


def drawn_on(path, source):
    """Amount of drawing on an image: differences between ``path`` and ``source`` beyond brightness and
    contrast.

    Returns:
        float: Largest standard deviation of the residual over the channels, in 0 to 255.
    """
    picture = pixels(path)
    source = np.asarray(
        Image.open(source).convert('RGB').resize(picture.shape[1::-1], Image.Resampling.BICUBIC)
    )
    remainders = []
    for channel in range(3):
        x, y = source[..., channel].ravel(), picture[..., channel].ravel()
        remainders.append((y - np.polyval(np.polyfit(x, y, 1), x)).std())
    return max(remainders)


@pytest.fixture(scope='module')
def classification(folder):
    pytest.importorskip('mmpretrain')
    path, checkpoint = prepare('mobilemamba/mobilemamba-t2_*e_digits-*.py', folder)
    browse = (
        'visualization/browse_dataset.py',
        path,
        '-o',
        'browsed',
        '--not-show',
        '-n',
        '3',
        '-m',
        'pipeline',
    )
    outputs = run_tools(
        'mmpretrain',
        ('analysis_tools/get_flops.py', path, '--shape', '192'),
        browse,
        ('test.py', path, checkpoint, '--out', 'plain.pkl'),
        ('test.py', path, checkpoint, '--out', 'tta.pkl', '--tta'),
        (
            'analysis_tools/confusion_matrix.py',
            path,
            checkpoint,
            '--out',
            'matrix.pkl',
            '--show-path',
            'matrix.png',
        ),
        cwd=folder,
    )
    return folder, path, checkpoint, outputs


def test_classification(classification):
    folder, path, _, outputs = classification
    assert_flops(outputs[0], path, (192, 192))

    browsed = list((folder / 'browsed').glob('*.png'))
    assert len(browsed) == 3
    assert all(pixels(file).std() > 10 for file in browsed)

    plain, tta = (pickle.loads((folder / f'{name}.pkl').read_bytes()) for name in ('plain', 'tta'))
    files = sorted((folder / 'data/digits_scenes/imagenet/val').glob('*/*.png'))
    assert len(plain) == len(tta) == len(files)
    scores, averaged = (torch.stack([sample['pred_score'] for sample in group]) for group in (plain, tta))
    torch.testing.assert_close(averaged.sum(1), torch.ones(len(files)))
    assert not torch.allclose(scores, averaged)

    matrix = pickle.loads((folder / 'matrix.pkl').read_bytes())
    labels = torch.tensor([int(sample['gt_label']) for sample in plain])
    assert torch.equal(torch.as_tensor(matrix).sum(1), torch.bincount(labels, minlength=10))
    assert pixels(folder / 'matrix.png').std() > 10


def test_grad_cam(classification):
    """With the last norm, found by the tool, and with a given stage; maps of 4 x 4 for 256 px.

    A deployed checkpoint has no batch norms, only stages.
    """
    pytest.importorskip('pytorch_grad_cam')
    folder, path, checkpoint, _ = classification
    image = next((folder / 'data/digits_scenes/imagenet/val').glob('*/*.png'))
    large = ('--cfg-options', 'test_dataloader.dataset.pipeline.1.scale=(256,256)')
    command = (
        'visualization/vis_cam.py',
        image,
        path,
        checkpoint,
        '--target-category',
        '1',
        *large,
        '--save-path',
    )
    stage = (*command, 'stage.png', '--target-layers', 'backbone.stages.2')
    reparameterize_model.main([str(path), str(checkpoint), str(folder / 'folded.pth')])
    options = (*large, 'model.backbone.deploy=True', 'model.head.deploy=True')
    folded = ('visualization/vis_cam.py', image, path, 'folded.pth', '--target-category', '1', *options)
    folded = (*folded, '--save-path', 'folded.png', '--target-layers', 'backbone.stages.2')
    outputs = run_tools('mmpretrain', (*command, 'norm.png'), stage, folded, cwd=folder)
    assert 'last norm layer "backbone.stages.2.blocks.1.ffn1.fn.pw2.bn" as the target layer' in outputs[0]
    for name in ('norm.png', 'stage.png'):
        assert pixels(folder / name).shape == (256, 256, 3)
        assert drawn_on(folder / name, image) > 10
    difference = pixels(folder / 'folded.png').astype(int) - pixels(folder / 'stage.png')
    assert np.abs(difference).mean() < 1


def test_detection(folder):
    pytest.importorskip('mmdet')
    path, checkpoint = prepare('retinanet/*2e_digits.py', folder)
    unsure = ('--cfg-options', 'model.test_cfg.score_thr=0.0')  # random weights have low scores
    outputs = run_tools(
        'mmdet',
        ('analysis_tools/get_flops.py', path, '--num-images', '1'),
        (
            'analysis_tools/browse_dataset.py',
            path,
            '--output-dir',
            'boxes',
            '--not-show',
            '--show-interval',
            '0',
        ),
        ('test.py', path, checkpoint, '--out', 'boxes.pkl', *unsure),
        ('test.py', path, checkpoint, '--out', 'boxes_tta.pkl', '--tta', *unsure),
        ('analysis_tools/confusion_matrix.py', path, 'boxes.pkl', 'matrix'),
        cwd=folder,
    )
    shape = re.search(r'Input shape: \((\d+), (\d+)\)', outputs[0]).groups()
    assert_flops(outputs[0], path, tuple(map(int, shape)))

    scenes = sorted((folder / 'data/digits_scenes/coco/train').glob('*.png'))
    assert sorted(file.name for file in (folder / 'boxes').iterdir()) == [file.name for file in scenes]
    assert all(drawn_on(folder / 'boxes' / file.name, file) > 5 for file in scenes)

    plain, tta = (pickle.loads((folder / name).read_bytes()) for name in ('boxes.pkl', 'boxes_tta.pkl'))
    assert len(plain) == len(tta) == 4
    for one, other in zip(plain, tta):
        one, other = one['pred_instances'], other['pred_instances']
        assert len(one['scores']) == len(other['scores']) == 100
        assert not torch.equal(one['bboxes'], other['bboxes'])
    assert pixels(folder / 'matrix/confusion_matrix.png').shape == (792, 990, 3)  # 11 classes, 90 x 72 each


def test_segmentation(folder):
    pytest.importorskip('mmseg')
    path, checkpoint = prepare('sem_fpn/*2k_digits*.py', folder)
    outputs = run_tools(
        'mmseg',
        (
            'analysis_tools/browse_dataset.py',
            path,
            '--output-dir',
            'maps',
            '--not-show',
            '--show-interval',
            '0',
        ),
        ('test.py', path, checkpoint, '--out', 'plain_maps'),
        ('test.py', path, checkpoint, '--out', 'tta_maps', '--tta'),
        cwd=folder,
    )
    scenes = sorted((folder / 'data/digits_scenes/ade/images/training').glob('*.png'))
    assert sorted(file.name for file in (folder / 'maps').iterdir()) == [file.name for file in scenes]
    assert all(drawn_on(folder / 'maps' / file.name, file) > 5 for file in scenes)

    files = sorted((folder / 'plain_maps').glob('*.png'))
    assert len(files) == 4
    maps = [np.asarray(Image.open(file)) for file in files]
    averaged = [np.asarray(Image.open(folder / 'tta_maps' / file.name)) for file in files]
    assert all(map_.shape == other.shape == (160, 160) for map_, other in zip(maps, averaged))
    assert any((map_ != other).any() for map_, other in zip(maps, averaged))
    assert all(re.search(r'mIoU: +[\d.]+', output) for output in outputs[1:])
