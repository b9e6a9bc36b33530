"""Data pipelines of detectors and segmentors: sizes, boxes, masks and labels, on real image files."""

import json

import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS, MODELS, TRANSFORMS
from PIL import Image

from .recipes import DETECTORS, SEGMENTORS, load

SIZES = [(500, 375), (375, 500), (1000, 300)]  # width, height
BOX = (100, 50, 200, 100)  # x, y, width and height in every image
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
SSD = dict(ssdlite=320, ssdlite_512=512)


def write_image(path, width, height, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope='module')
def coco(tmp_path_factory):
    """COCO with three valid images, one without boxes, and one of 31 px height."""
    root = tmp_path_factory.mktemp('coco')
    images, annotations = [], []
    for number, (width, height) in enumerate([*SIZES, (64, 64), (64, 31)]):
        images.append(dict(id=number, file_name=f'{number}.png', width=width, height=height))
        if number != 3:
            x, y, w, h = BOX if number < 3 else (2, 2, 20, 20)
            outline = [x, y, x + w, y, x + w, y + h, x, y + h]
            annotation = dict(id=number, image_id=number, category_id=7, bbox=[x, y, w, h], iscrowd=0)
            annotations.append(dict(annotation, area=w * h, segmentation=[outline]))
        for split in ('train2017', 'val2017'):
            write_image(root / split / f'{number}.png', width, height, number)
    (root / 'annotations').mkdir()
    content = dict(images=images, annotations=annotations, categories=[dict(id=7, name='person')])
    for split in ('train2017', 'val2017'):
        (root / f'annotations/instances_{split}.json').write_text(json.dumps(content))
    return f'{root}/'


@pytest.fixture(scope='module')
def ade(tmp_path_factory):
    """ADE20K with three images whose left half has no label and whose right half has label 7 of 1 to 150."""
    root = tmp_path_factory.mktemp('ade')
    for number, (width, height) in enumerate(SIZES):
        for split in ('training', 'validation'):
            write_image(root / f'images/{split}/{number}.jpg', width, height, number)
            label = np.zeros((height, width), np.uint8)
            label[:, width // 2 :] = 7
            folder = root / f'annotations/{split}'
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(label).save(folder / f'{number}.png')
    return str(root)


def dataset(name, loader, root):
    """The dataset of a recipe, with other file paths."""
    config = load(name)[loader].dataset
    (config.dataset if config.type == 'RepeatDataset' else config).data_root = root
    return DATASETS.build(config)


def preprocess(name, sample, training=False):
    preprocessor = MODELS.build(load(name).model.data_preprocessor)
    return preprocessor(
        dict(inputs=[sample['inputs']], data_samples=[sample['data_samples']]), training=training
    )


def normalized(image):
    """A BGR image (3, H, W) -> the float RGB input of the networks."""
    return (image.flip(0) - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


@pytest.mark.parametrize('name', ['retinanet', 'maskrcnn'])
@pytest.mark.parametrize('loader', ['train_dataloader', 'test_dataloader'])
def test_detectors_resize_to_1333_by_800(name, loader, coco):
    """The largest size within 1333 x 800 or 800 x 1333, then zero padding to multiples of 32."""
    data = dataset(name, loader, coco)
    assert len(data) == (3 if loader == 'train_dataloader' else 5)  # training filters out the last two
    expected = [((800, 1067), (800, 1088)), ((1067, 800), (1088, 800)), ((400, 1333), (416, 1344))]
    for index, (resized, padded) in enumerate(expected):
        sample = data[index]
        assert sample['inputs'].shape == (3, *resized) and sample['inputs'].dtype == torch.uint8
        found = preprocess(name, sample, loader == 'train_dataloader')['inputs']
        assert found.shape == (1, 3, *padded)
        height, width = resized
        inside = found[0, :, :height, :width]
        torch.testing.assert_close(inside, normalized(sample['inputs'].float()), atol=1e-5, rtol=0)
        assert found[0, :, height:].abs().sum() == found[0, :, :, width:].abs().sum() == 0


@pytest.mark.parametrize('name', ['retinanet', 'maskrcnn'])
def test_detectors_flip_boxes_and_masks(name, coco):
    data = dataset(name, 'train_dataloader', coco)
    kinds = [type(transform).__name__ for transform in data.pipeline.transforms]
    assert kinds == ['LoadImageFromFile', 'LoadAnnotations', 'Resize', 'RandomFlip', 'PackDetInputs']
    x, y, w, h = BOX
    wide, high = 1067 / 500, 800 / 375
    box = torch.tensor([x * wide, y * high, (x + w) * wide, (y + h) * high])
    mirrored = torch.stack([1067 - box[2], box[1], 1067 - box[0], box[3]])
    flips = []
    for seed in range(40):
        np.random.seed(seed)
        instances = data[0]['data_samples'].gt_instances
        assert instances.labels.tolist() == [0]
        found = torch.as_tensor(getattr(instances.bboxes, 'tensor', instances.bboxes))[0]
        flips.append(not torch.allclose(found, box, atol=1e-2))
        torch.testing.assert_close(found, mirrored if flips[-1] else box, atol=1e-2, rtol=0)
        assert ('masks' in instances) == (name == 'maskrcnn')
        if name == 'maskrcnn' and seed < 4:
            (mask,) = instances.masks.masks
            assert mask.shape == (800, 1067)
            rows, columns = np.nonzero(mask)
            edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert edges == pytest.approx(found.tolist(), abs=2)
    assert 10 <= sum(flips) <= 30  # probability 0.5, to 3 standard deviations


@pytest.mark.parametrize('name', SSD)
def test_ssdlite_resizes_to_a_square(name, coco):
    size = SSD[name]
    data = dataset(name, 'train_dataloader', coco)
    assert len(data) == 5 * 3
    for seed in range(9):
        np.random.seed(seed)
        sample = data[seed % len(data)]
        assert sample['inputs'].shape == (3, size, size)
        boxes = sample['data_samples'].gt_instances.bboxes
        boxes = getattr(boxes, 'tensor', boxes)
        assert (boxes >= 0).all() and (boxes <= size).all()
    data = dataset(name, 'test_dataloader', coco)
    for index, (width, height) in enumerate(SIZES):
        sample = data[index]
        assert sample['inputs'].shape == (3, size, size)
        assert sample['data_samples'].scale_factor == pytest.approx((size / width, size / height))
        found = preprocess(name, sample)['inputs']
        assert found.shape == (1, 3, size, size)  # no padding
        torch.testing.assert_close(found[0], normalized(sample['inputs'].float()), atol=1e-5, rtol=0)


@pytest.mark.parametrize('name', SSD)
def test_ssdlite_augmentations(name):
    config = load(name).train_dataloader.dataset.dataset.pipeline
    _, _, expand, crop, resize, flip, distort, _ = map(TRANSFORMS.build, config)
    assert [type(t).__name__ for t in (expand, crop, resize, flip, distort)] == [
        'Expand',
        'MinIoURandomCrop',
        'Resize',
        'RandomFlip',
        'PhotoMetricDistortion',
    ]
    assert (expand.min_ratio, expand.max_ratio, tuple(expand.mean)) == (1, 4, MEAN[::-1])
    assert tuple(crop.min_ious) == (0.1, 0.3, 0.5, 0.7, 0.9) and crop.min_crop_size == 0.3
    assert (resize.scale, resize.keep_ratio, flip.prob) == ((SSD[name],) * 2, False, 0.5)
    ranges = (distort.contrast_lower, distort.contrast_upper)
    assert ranges == (distort.saturation_lower, distort.saturation_upper) == (0.5, 1.5)
    assert (distort.brightness_delta, distort.hue_delta) == (32, 18)


@pytest.mark.parametrize('name', DETECTORS)
def test_detectors_metrics(name):
    evaluator = load(name).test_evaluator
    assert evaluator == load(name).val_evaluator and evaluator.type == 'CocoMetric'
    assert evaluator.metric == (['bbox', 'segm'] if name == 'maskrcnn' else 'bbox')
    assert evaluator.ann_file == 'data/coco/annotations/instances_val2017.json'


def test_segmentors_share_their_data():
    first, *others = (load(name) for name in SEGMENTORS)
    for other in others:
        assert other.train_dataloader == first.train_dataloader
        assert other.test_dataloader == first.test_dataloader


def test_segmentors_train_on_crops(ade):
    """Scale 0.5 to 2 of 2048 x 512, crop to 512 x 512, and padding of smaller images."""
    data = dataset('fpn', 'train_dataloader', ade)
    _, _, resize, crop, flip, distort, _ = data.pipeline.transforms
    assert [type(t).__name__ for t in (resize, crop, flip, distort)] == [
        'RandomResize',
        'RandomCrop',
        'RandomFlip',
        'PhotoMetricDistortion',
    ]
    assert (crop.crop_size, crop.cat_max_ratio, flip.prob) == ((512, 512), 0.75, 0.5)
    assert resize.resize.keep_ratio
    np.random.seed(0)
    short = np.array([resize._random_scale()[1] for _ in range(1000)])
    assert 256 <= short.min() < 262 and 1018 < short.max() <= 1024
    assert short.mean() == pytest.approx(1.25 * 512, abs=20)  # uniform

    small = 0
    for seed in range(12):
        np.random.seed(seed)
        sample = data[seed % 3]
        label = sample['data_samples'].gt_sem_seg.data
        height, width = label.shape[1:]
        assert sample['inputs'].shape == (3, height, width) and max(height, width) <= 512
        assert set(label.unique().tolist()) <= {6, 255}  # label 0 is ignored, the others are shifted by 1
        small += min(height, width) < 512
        padded = preprocess('fpn', sample, training=True)
        assert padded['inputs'].shape == (1, 3, 512, 512)
        target = padded['data_samples'][0].gt_sem_seg.data
        assert target.shape == (1, 512, 512) and torch.equal(target[:, :height, :width], label)
        outside = torch.ones(512, 512, dtype=torch.bool)
        outside[:height, :width] = False
        assert (target[0][outside] == 255).all() and (padded['inputs'][0][:, outside] == 0).all()
    assert 0 < small < 12


@pytest.mark.parametrize('name', SEGMENTORS)
def test_segmentors_test_whole_images(name, ade):
    """The largest size within 2048 x 512 or 512 x 2048, without padding; labels are not resized."""
    data = dataset(name, 'test_dataloader', ade)
    expected = [(512, 683), (683, 512), (512, 1707)]
    for index, ((width, height), resized) in enumerate(zip(SIZES, expected)):
        sample = data[index]
        label = sample['data_samples'].gt_sem_seg.data
        assert sample['inputs'].shape == (3, *resized) and label.shape == (1, height, width)
        assert (label[0, :, : width // 2] == 255).all() and (label[0, :, width // 2 :] == 6).all()
        found = preprocess(name, sample)['inputs'][0]
        torch.testing.assert_close(found, normalized(sample['inputs'].float()), atol=1e-5, rtol=0)
    config = load(name)
    assert len(data.metainfo['classes']) == 150 and config.model.test_cfg == dict(mode='whole')
    assert config.test_evaluator == config.val_evaluator
    assert (config.test_evaluator.type, config.test_evaluator.iou_metrics) == ('IoUMetric', ['mIoU'])
