"""mmocr: DBNet on four levels from two stages and DeconvFPN."""

import json

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS

from .projects import draw, evaluate, recipe, replace, shorten, train

pytestmark = pytest.mark.projects
SIDE = 128


@pytest.fixture(scope='module')
def signs(tmp_path_factory):
    """Four images in the layout of mmocr's converted ICDAR 2015, with two words each."""
    folder = tmp_path_factory.mktemp('signs')
    instances = []
    for left, top, right, bottom in ((10, 20, 110, 60), (10, 90, 110, 130)):
        polygon = [left, top, right, top, right, bottom, left, bottom]
        instances.append(dict(bbox=[left, top, right, bottom], polygon=polygon, bbox_label=0, ignore=False))
    images = [
        dict(img_path=f'images/{name}', height=160, width=120, instances=instances)
        for name in draw(folder / 'images')
    ]
    metainfo = dict(dataset_type='TextDetDataset', task_name='textdet', category=[dict(id=0, name='text')])
    (folder / 'words.json').write_text(json.dumps(dict(metainfo=metainfo, data_list=images)))
    return folder


def test_recipe(signs, tmp_path):
    """mmocr's tools train it and predict with it."""
    from mmengine.structures import InstanceData
    from mmocr.apis import TextDetInferencer

    config = recipe('mmocr/dbnet_*.py')
    shorten(config)
    for loader in (config.train_dataloader, config.test_dataloader):
        loader.dataset.update(data_root=str(signs), ann_file='words.json')
        replace(loader.dataset.pipeline, Resize=dict(scale=(SIDE, SIDE)), Pad=dict(size=(SIDE, SIDE)))
    path, checkpoint = train(config, tmp_path)
    assert 0 <= evaluate(path, checkpoint, tmp_path)['icdar/hmean'] <= 1

    inferencer = TextDetInferencer(str(path), str(checkpoint), device='cpu')
    (found,) = inferencer(str(signs / 'images/0.png'), return_datasamples=True)['predictions']
    assert found.ori_shape == (160, 120) and isinstance(found.pred_instances, InstanceData)
    assert all(np.isfinite(polygon).all() for polygon in found.pred_instances.polygons)


def test_sizes():
    """Strides are 4 to 32 between the necks and 4 after them; the final map has the size of the image."""
    config = recipe('mmocr/dbnet_*.py')
    model = MODELS.build(config.model).eval()
    with torch.no_grad():
        maps = model.neck[0](model.backbone(torch.rand(1, 3, 128, 192)))
        assert [tuple(x.shape) for x in maps] == [(1, 256, 128 // s, 192 // s) for s in (4, 8, 16, 32)]
        fused = model.neck[1](maps)
        assert fused.shape == (1, 256, 32, 48)
        probabilities = model.det_head(fused, mode='predict')
    assert probabilities.shape == (1, 128, 192)
    assert ((probabilities > 0) & (probabilities < 1)).all()
