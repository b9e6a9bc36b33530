"""Shared by the tests of other projects: recipes reduced to two iterations, and the project's tools."""

import json

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from ..commands import run
from ..conftest import ROOT

IMAGES, BATCH = 4, 2


def recipe(pattern):
    """The matching config of ``configs/projects``, with T2 from scratch."""
    (path,) = (ROOT / 'configs/projects').glob(pattern)
    config = Config.fromfile(path)
    config.model.backbone.update(arch='t2', init_cfg=None)
    init_default_scope(config.default_scope)
    return config


def shorten(config):
    """Reduce a config to two iterations of two images, without validation, in one process."""
    for loader in (config.train_dataloader, config.test_dataloader):
        loader.update(batch_size=BATCH, num_workers=0, persistent_workers=False)
    config.train_cfg.max_epochs = 1
    config.update(val_cfg=None, val_dataloader=None, val_evaluator=None, param_scheduler=[])
    config.default_hooks.checkpoint.update(interval=1, save_best=None)
    config.default_hooks.logger.interval = 1
    config.randomness = dict(seed=0)


def replace(pipeline, **steps):
    """Update arguments of a pipeline's steps by ``type``."""
    for step in pipeline:
        step.update(steps.get(step['type'].rpartition('.')[2], {}))


def train(config, folder):
    """Train with ``tools/train.py``.

    Returns:
        tuple[Path, Path]: The config, and the checkpoint after two iterations with finite losses, in which
        every parameter got a gradient.
    """
    path, work_dir = folder / 'small.py', folder / 'work'
    config.dump(path)
    run('python', ROOT / 'tools/train.py', path, '--work-dir', work_dir, cwd=folder)
    (log,) = work_dir.glob('*/vis_data/scalars.json')
    losses = [json.loads(line)['loss'] for line in log.read_text().splitlines()]
    assert len(losses) == 2 and np.isfinite(losses).all() and min(losses) > 0
    checkpoint = work_dir / 'epoch_1.pth'
    saved = torch.load(checkpoint, weights_only=True)
    assert saved['meta']['iter'] == 2
    assert len(saved['optimizer']['state']) == len(list(MODELS.build(config.model).parameters()))
    assert all(value.isfinite().all() for value in saved['state_dict'].values())
    return path, checkpoint


def evaluate(path, checkpoint, folder):
    """Scores by name, logged by ``tools/test.py`` for a checkpoint."""
    command = ('python', ROOT / 'tools/test.py', path, checkpoint, '--work-dir', folder / 'tested')
    run(*command, cwd=folder)
    (log,) = (folder / 'tested').glob('*/*.json')
    return json.loads(log.read_text())


def draw(folder, number=IMAGES, height=160, width=120):
    """Write gray noise as PNG files; returns their names."""
    generator, names = np.random.default_rng(0), [f'{index}.png' for index in range(number)]
    folder.mkdir(parents=True)
    for name in names:
        pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        assert cv2.imwrite(str(folder / name), pixels)
    return names
