"""The configs that the pages show, saved as a reader would, through one training and one test iteration."""

import json
import math
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner

from ..conftest import ROOT, authors_checkpoint
from ..pages import config_snippets
from .workplace import small_config

# Those with a Runner of their own need several processes.
SNIPPETS = {
    name: text
    for name, text in config_snippets(*sorted((ROOT / 'docs').glob('*.md')))
    if 'runner_type' not in text
}
SCORES = dict(mmpretrain='accuracy/top1', mmdet='coco/bbox_mAP', mmseg='mIoU')


def names_by_label(dataset):
    """The first sample's names of objects or of the image: by our classes, and by the files themselves."""
    info, classes = dataset.get_data_info(0), dataset.metainfo['classes']
    if 'gt_label' in info:
        return [classes[info['gt_label']]], [Path(info['img_path']).parent.name]
    content = json.loads(Path(dataset.ann_file).read_text())
    categories = {category['id']: category['name'] for category in content['categories']}
    objects = [item for item in content['annotations'] if item['image_id'] == info['img_id']]
    ours = [classes[instance['bbox_label']] for instance in info['instances']]
    return ours, [categories[item['category_id']] for item in objects]


def provide_checkpoints(config):
    """Write the weights that a config names and nobody has: the authors', or an untrained teacher's."""
    init_default_scope(config.default_scope)
    backbone, teacher = config.model.backbone, config.model.get('teacher', {})
    for model, state_dict in (
        (backbone, lambda: authors_checkpoint(backbone.arch)),
        (teacher, lambda: dict(state_dict=MODELS.build(teacher).state_dict())),
    ):
        path = Path(model['init_cfg']['checkpoint']) if model.get('init_cfg') else None
        if path and not path.exists():
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
    if 'metainfo' in SNIPPETS[name] and config.default_scope != 'mmseg':  # whose labels are pixels' values
        ours, theirs = names_by_label(dataset)
        assert ours == theirs and ours
    classes = dataset.metainfo['classes']
    numbers = {m.num_classes for m in runner.model.modules() if hasattr(m, 'num_classes')}
    assert numbers == {len(classes)}


def test_every_task_has_its_own_data():
    assert {name.partition('-')[0] for name in SNIPPETS} >= {'classification', 'detection', 'segmentation'}
