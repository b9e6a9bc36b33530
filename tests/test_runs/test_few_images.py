"""Recipes with few images, in mmengine's Runner."""

import pytest
from mmengine.runner import Runner

from .workplace import CONFIGS, small_config

PATHS = {path.stem: path for path in CONFIGS}
CLASSIFIER = 'mobilemamba-t2_8xb128_in1k'
RETINANET = 'retinanet_mobilemamba-b1_fpn_1x_coco'
SSDLITE = 'ssdlite_mobilemamba-b1_8xb24-320-600e_coco'
PSPNET = 'mobilemamba-b4_pspnet_4xb8-80k_ade20k-512x512'
SEM_FPN = 'mobilemamba-b4_fpn_4xb8-160k_ade20k-512x512'


def build(name, work_dir, batch_size):
    """A recipe with T2 from scratch, with one batch of images."""
    config = small_config(PATHS[name], work_dir, batch_size=batch_size)
    config.model.backbone.update(arch='t2', init_cfg=None)
    return config


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'drop_last'),
    [(CLASSIFIER, 'drop_last'), (RETINANET, 'batch_sampler.drop_last'), (SSDLITE, 'drop_last')],
)
def test_fewer_images_than_a_batch(name, drop_last, at_work, tmp_path):
    config = build(name, tmp_path, 2)
    config.merge_from_dict({f'train_dataloader.{drop_last}': True, 'train_dataloader.batch_size': 8})
    message = rf'a process has 2 images, fewer than the batch_size of 8.*train_dataloader\.{drop_last}=False'
    with pytest.raises(ValueError, match=rf'{message}|An epoch has no iteration'):
        Runner.from_cfg(config).train()


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'norm'),
    [
        (CLASSIFIER, 'head.head.bn'),
        (SSDLITE, r'neck\.'),
        (PSPNET, r'decode_head\.'),
        (RETINANET, None),
        (SEM_FPN, None),
    ],
)
def test_one_image(name, norm, at_work, tmp_path):
    """Refused if a map has one pixel, otherwise accepted."""
    runner = Runner.from_cfg(build(name, tmp_path, 1))
    if norm is None:
        runner.train()
        assert runner.iter == 1
        return
    with pytest.raises(
        ValueError, match=rf'one image, of which the batch norm {norm}.* sees one value per channel'
    ):
        runner.train()
    assert runner.iter == 0
