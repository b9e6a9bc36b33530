"""One training and one test iteration of the configs on the pages, saved as a reader would."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner import Runner
from PIL import Image

from mmmobilemamba.weights import SCHEME, weights_of

from ..conftest import ROOT, authors_checkpoint
from ..helpers import needs_torch
from ..pages import config_snippets
from .workplace import small_config

ALL = dict(config_snippets(*sorted((ROOT / 'docs').glob('*.md'))))
# Configs with another Runner need several processes, and CUDA graphs need a GPU; test_starting_points.py has
# the configs of other detectors and segmentors.
SNIPPETS = {
    name: text
    for name, text in ALL.items()
    if 'runner_type' not in text and 'CUDAGraphHook' not in text and not name.startswith('any_project')
}
SCORES = dict(mmpretrain='accuracy/top1', mmdet='coco/bbox_mAP', mmseg='mIoU')


def names_by_label(dataset):
    """Class names in the first sample, according to the config and according to the files."""
    info, classes = dataset.get_data_info(0), dataset.metainfo['classes']
    if 'gt_label' in info:
        return [classes[info['gt_label']]], [Path(info['img_path']).parent.name]
    content = json.loads(Path(dataset.ann_file).read_text())
    categories = {category['id']: category['name'] for category in content['categories']}
    objects = [item for item in content['annotations'] if item['image_id'] == info['img_id']]
    ours = [classes[instance['bbox_label']] for instance in info['instances']]
    return ours, [categories[item['category_id']] for item in objects]


def provide_checkpoints(config):
    """Write the weights that a config needs: stand-ins for the authors', or an untrained teacher's."""
    init_default_scope(config.default_scope)
    backbone, teacher = config.model.backbone, config.model.get('teacher', {})
    for model, state_dict in (
        (backbone, lambda: authors_checkpoint(backbone.arch)),
        (teacher, lambda: dict(state_dict=MODELS.build(teacher).state_dict())),
    ):
        checkpoint = (model.get('init_cfg') or {}).get('checkpoint')
        if checkpoint is None:
            continue
        by_name = checkpoint.startswith(SCHEME)
        path = Path('checkpoints', weights_of(checkpoint).file_name) if by_name else Path(checkpoint)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(state_dict(), path)


@pytest.mark.slow
@pytest.mark.parametrize('name', SNIPPETS)
def test_snippet(name, at_work, tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text(SNIPPETS[name])
    config = small_config(path, tmp_path)
    provide_checkpoints(config)
    runner = Runner.from_cfg(config)
    runner.train()
    assert runner.iter == 1
    assert math.isfinite(runner.message_hub.get_scalar('train/loss').current())
    metrics = runner.test()
    assert 0 <= metrics[SCORES[config.default_scope]] <= 100

    dataset = runner.test_dataloader.dataset
    if 'metainfo' in SNIPPETS[name] and config.default_scope != 'mmseg':  # its labels are pixel values
        ours, theirs = names_by_label(dataset)
        assert ours == theirs and ours
    classes = dataset.metainfo['classes']
    numbers = {m.num_classes for m in runner.model.modules() if hasattr(m, 'num_classes')}
    assert numbers == {len(classes)}


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
@needs_torch('2.5')
def test_snippet_for_a_gpu(at_work, tmp_path):
    """Without a GPU, it is refused before the first step; compiled without CUDA graphs, it trains."""
    path = tmp_path / 'mine.py'
    path.write_text(ALL['gpu-0'])
    config = small_config(path, tmp_path)
    assert config.train_dataloader.drop_last
    runner = Runner.from_cfg(config)
    with pytest.raises(RuntimeError, match=r'need a GPU of NVIDIA'):
        runner.train()
    assert runner.iter == 0
    config.custom_hooks = [hook for hook in config.custom_hooks if hook.type != 'CUDAGraphHook']
    config.model.backbone.compile = dict(backend='eager')  # faster than `True`
    runner = Runner.from_cfg(config)
    runner.train()
    assert runner.iter == 1
    assert runner.model.backbone.stages[0].blocks[0].region is not None


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'labels'),
    [
        # In the files, 0 is a rim, 1 the background, and 2 and above are digits.
        ('segmentation-0', lambda file: np.where(file == 0, 255, file.astype(int) - 1)),
        ('segmentation-1', lambda file: file.astype(int)),
    ],
)
def test_labels_of_a_segmentor(name, labels, at_work, tmp_path):
    """With label 0 ignored, and with label 0 as the first class; also in training."""
    path = tmp_path / 'mine.py'
    path.write_text(SNIPPETS[name])
    config = Config.fromfile(path)
    init_default_scope('mmseg')
    dataset = DATASETS.build(config.test_dataloader.dataset)
    for index in range(len(dataset)):
        sample = dataset[index]['data_samples']
        expected = labels(np.asarray(Image.open(sample.seg_map_path)))
        assert np.array_equal(sample.gt_sem_seg.data.numpy()[0], expected)
        names = dataset.metainfo['classes']
        assert {names[label] for label in np.unique(expected) if label != 255} > {'background'}
    step = next(step for step in config.train_dataloader.dataset.pipeline if step.type == 'LoadAnnotations')
    assert step.reduce_zero_label == config.train_dataloader.dataset.reduce_zero_label == (name[-1] == '0')


def test_average_of_a_short_training(tmp_path):
    """The classifier's EMA momentum is ten times the recipe's; everything else is equal."""
    path = tmp_path / 'mine.py'
    path.write_text(SNIPPETS['classification-0'])
    (hook,) = Config.fromfile(path).custom_hooks
    (recipe,) = Config.fromfile(ROOT / 'configs/mobilemamba/mobilemamba-t2_8xb128_in1k.py').custom_hooks
    assert (hook.pop('momentum'), recipe.pop('momentum')) == (2e-3, 2e-4)
    assert hook == recipe


def test_every_task_has_its_own_data():
    assert {name.partition('-')[0] for name in SNIPPETS} >= {'classification', 'detection', 'segmentation'}
