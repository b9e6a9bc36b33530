"""mmrotate: Rotated RetinaNet on the five levels of DeconvFPN."""

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS

from .projects import draw, evaluate, recipe, replace, shorten, train

pytestmark = pytest.mark.projects
SIDE = 128


@pytest.fixture(scope='module')
def harbour(tmp_path_factory):
    """Four images in DOTA's layout, each with a rotated ship."""
    folder = tmp_path_factory.mktemp('harbour')
    (folder / 'annfiles').mkdir()
    for name in draw(folder / 'images', height=SIDE, width=SIDE):
        ship = '64 16 112 64 64 112 16 64 ship 0\n'
        (folder / 'annfiles' / name).with_suffix('.txt').write_text(ship)
    return folder


def test_recipe(harbour, tmp_path):
    """mmrotate's tool trains it, and mmdet's predicts with it, as in mmrotate's docs."""
    from mmdet.apis import inference_detector, init_detector

    config = recipe('mmrotate/rotated-retinanet-*.py')
    shorten(config)
    for loader in (config.train_dataloader, config.test_dataloader):
        loader.dataset.update(data_root=str(harbour), ann_file='annfiles/', img_shape=(SIDE, SIDE))
        loader.dataset.data_prefix = dict(img_path='images/')
        replace(loader.dataset.pipeline, Resize=dict(scale=(SIDE, SIDE)))
    config.model.test_cfg.update(score_thr=0.0, max_per_img=10)  # scores are low after such a short training
    path, checkpoint = train(config, tmp_path)
    assert 0 <= evaluate(path, checkpoint, tmp_path)['dota/mAP'] <= 1

    model = init_detector(str(path), str(checkpoint), device='cpu', palette='random')
    found = inference_detector(model, str(harbour / 'images/0.png')).pred_instances
    assert found.bboxes.shape == (10, 5) and found.labels.max() < 15
    assert found.bboxes.isfinite().all()
    assert (found.bboxes[:, 4].abs() <= np.pi / 2 + 1e-6).all()


def test_strides():
    """Maps and anchors have the same strides."""
    config = recipe('mmrotate/rotated-retinanet-*.py')
    model = MODELS.build(config.model).eval()
    with torch.no_grad():
        maps = model.extract_feat(torch.rand(1, 3, 256, 384))
    strides = [stride for stride, _ in model.bbox_head.prior_generator.strides]
    assert strides == [8, 16, 32, 64, 128]
    assert [tuple(x.shape[1:]) for x in maps] == [(256, 256 // s, 384 // s) for s in strides]
