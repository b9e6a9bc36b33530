"""mmpose: heatmaps from stage 1, SimCC, and the other heads described on the page."""

import json

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS

from .projects import draw, evaluate, recipe, shorten, train

pytestmark = pytest.mark.projects
HEIGHT, WIDTH = 160, 120


@pytest.fixture(scope='module')
def people(tmp_path_factory):
    """Four images in COCO's layout, each with a person of 17 keypoints."""
    folder = tmp_path_factory.mktemp('people')
    generator = np.random.default_rng(1)
    images, annotations = [], []
    for index, name in enumerate(draw(folder / 'images', height=HEIGHT, width=WIDTH)):
        images.append(dict(id=index, file_name=name, height=HEIGHT, width=WIDTH))
        points = np.full((17, 3), 2)
        points[:, 0] = generator.integers(20, 100, 17)
        points[:, 1] = generator.integers(20, 140, 17)
        person = dict(id=index + 1, image_id=index, category_id=1, iscrowd=0, num_keypoints=17)
        person.update(bbox=[15, 15, 90, 130], area=90 * 130, keypoints=points.ravel().tolist())
        annotations.append(person)
    categories = [dict(id=1, name='person')]
    content = dict(images=images, annotations=annotations, categories=categories)
    (folder / 'people.json').write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize('pattern', ['mmpose/td-hm_*.py', 'mmpose/simcc_*.py'])
def test_recipe(pattern, people, tmp_path):
    """mmpose's tools train it and predict with it."""
    from mmpose.apis import inference_topdown, init_model

    config = recipe(pattern)
    shorten(config)
    for loader in (config.train_dataloader, config.test_dataloader):
        loader.dataset.update(data_root=str(people), ann_file='people.json', data_prefix=dict(img='images/'))
    config.test_dataloader.dataset.bbox_file = None
    config.test_evaluator.ann_file = str(people / 'people.json')
    path, checkpoint = train(config, tmp_path)
    assert 0 <= evaluate(path, checkpoint, tmp_path)['coco/AP'] <= 1

    model = init_model(str(path), str(checkpoint), device='cpu')
    (found,) = inference_topdown(model, str(people / 'images/0.png'), np.array([[15, 15, 105, 145]]))
    points, scores = found.pred_instances.keypoints, found.pred_instances.keypoint_scores
    assert points.shape == (1, 17, 2) and scores.shape == (1, 17)
    centre, reach = np.array([60, 80]), 1.25 * np.array([97.5, 130]) / 2 + 4  # of the box padded to 3 : 4
    assert (abs(points - centre) <= reach).all() and np.isfinite(scores).all()


def head_of(config, **backbone):
    """Shapes of the head's outputs for a config with other backbone settings."""
    config.model.backbone.update(backbone)
    model = MODELS.build(config.model).eval()
    with torch.no_grad():
        found = model._forward(torch.rand(2, 3, 256, 192))
    return [tuple(each.shape) for each in (found if isinstance(found, tuple) else [found])]


def test_sizes():
    """Heatmaps have a quarter of the image's sides; SimCC has two bins per pixel."""
    assert head_of(recipe('mmpose/td-hm_*.py')) == [(2, 17, 64, 48)]
    assert head_of(recipe('mmpose/simcc_*.py')) == [(2, 17, 384), (2, 17, 512)]


def test_heatmaps_of_other_stages():
    """The last stage needs one more deconvolution, all stages together one less."""
    config = recipe('mmpose/td-hm_*.py')
    config.model.head.in_channels = 'stage2'
    assert head_of(config, out_indices=2) == [(2, 17, 32, 24)]  # half the size of the codec's heatmaps
    config.model.head.update(deconv_out_channels=(256,) * 4, deconv_kernel_sizes=(4,) * 4)
    assert head_of(config, out_indices=2) == [(2, 17, 64, 48)]
    config.model.head.update(in_channels=144 + 272 + 368)
    config.model.head.update(deconv_out_channels=(256,) * 2, deconv_kernel_sizes=(4,) * 2)
    config.model.neck = dict(type='FeatureMapProcessor', concat=True)
    assert head_of(config, out_indices=(0, 1, 2)) == [(2, 17, 64, 48)]
