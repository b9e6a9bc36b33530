"""Untrained recipes and configs of docs/any_project.md: two iterations with T2, and a test."""

import math

import pytest
import torch
from mmengine.runner import Runner

from ..conftest import ROOT
from ..pages import config_snippets
from ..test_docs import has_key
from . import workplace
from .workplace import STARTING_POINTS, small_config

METRICS = dict(mmdet={'coco/bbox_mAP', 'coco/bbox_mAP_50'}, mmseg={'aAcc', 'mIoU', 'mAcc'})
# They shrink objects further, so that a level may have none; stock hooks also disable them at the end.
MIXES = {'Mosaic', 'RandomAffine', 'MixUp', 'CachedMosaic', 'CachedMixUp'}
PAGE = dict(config_snippets(ROOT / 'docs/any_project.md'))


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Eight training and four validation scenes, as COCO and as ADE20K."""
    folder = tmp_path_factory.mktemp('data')
    workplace.make_data(folder)
    return folder


def smallest(path, work_dir):
    """T2 from scratch, with two batches of two images, and two of each repeated layer."""
    config = small_config(path, work_dir, iterations=2)
    config.model.backbone.update(arch='t2', init_cfg=None, norm_eval=False)
    config.param_scheduler = []  # their warm-ups start near 0
    fewer = {
        'model.encoder.num_layers': 2,
        'model.decoder.num_layers': 2,
        'model.panoptic_head.pixel_decoder.encoder.num_layers': 2,
        'model.panoptic_head.transformer_decoder.num_layers': 2,
        'model.train_cfg.num_points': 512,
        'model.train_cfg.rpn_proposal.max_per_img': 50,
        'model.test_cfg.rpn.max_per_img': 50,
        'model.decode_head.pixel_decoder.encoder.num_layers': 2,
        'model.decode_head.transformer_decoder.num_layers': 2,
        'model.decode_head.train_cfg.num_points': 512,
    }
    dataset = config.train_dataloader.dataset
    dataset.pipeline = [step for step in dataset.pipeline if step['type'] not in MIXES]
    for step in dataset.pipeline:
        if 'poly2mask' in step:
            step.poly2mask = True  # masks of the scenes are not polygons
    if config.model.model_type == 'DINO':
        config.model.num_queries = 20  # small images have fewer than 900 pixels
    config.merge_from_dict({key: value for key, value in fewer.items() if has_key(config.to_dict(), key)})
    return config


def parts(model):
    """Names of parameters grouped by their first component."""
    found = {}
    for name, parameter in model.named_parameters():
        found.setdefault(name.partition('.')[0], {})[name] = parameter
    return found


@pytest.mark.slow
@pytest.mark.parametrize('item', [*STARTING_POINTS, *PAGE], ids=lambda item: getattr(item, 'stem', item))
def test_two_iterations(item, data, tmp_path, monkeypatch):
    """Losses are finite, all parameters get gradients, most of them change, and metrics are computed."""
    monkeypatch.chdir(data)
    # A Runner writes its config five times, and formatting it takes longer than the training.
    monkeypatch.setattr('mmengine.config.config.FormatCode', lambda text, **style: (text, True))
    path = item
    if item in PAGE:
        path = tmp_path / 'mine.py'
        path.write_text(PAGE[item])
    config = smallest(path, tmp_path)
    runner = Runner.from_cfg(config)
    before = {name: value.detach().clone() for name, value in runner.model.named_parameters()}
    missed = {name for name, value in runner.model.named_parameters() if value.requires_grad}
    for name, value in runner.model.named_parameters():
        value.register_hook(lambda grad, name=name: missed.discard(name))
    runner.train()
    assert runner.iter == 2
    losses = {k: v.current() for k, v in runner.message_hub.log_scalars.items() if 'loss' in k}
    assert losses['train/loss'] > 0 and all(map(math.isfinite, losses.values())), losses
    assert not missed, sorted(missed)  # required by DistributedDataParallel
    for part, values in parts(runner.model).items():
        moved = [name for name, value in values.items() if not torch.equal(value, before[name])]
        assert len(moved) > 0.8 * len(values), (part, sorted(set(values) - set(moved)))

    metrics = runner.test()
    wanted = METRICS[config.default_scope]
    assert wanted <= set(metrics) and all(0 <= metrics[key] <= 100 for key in wanted), metrics
