"""Data pipelines of classifiers: sizes, interpolation, augmentations, mixed targets, on a real image."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.dataset import Compose
from mmengine.registry import MODELS, TRANSFORMS
from PIL import Image

from .recipes import CLASSIFIERS, DISTILLED, PIXELS, build, load

pytest.importorskip('mmpretrain')

from mmpretrain.structures import DataSample
from torchvision import transforms
from torchvision.transforms import InterpolationMode

RESIZED = dict(t2=219, t4=219, s6=256, b1=292, b2=438, b4=585)  # pixels / 0.875, truncated
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of red, green and blue
POLICY = [
    ('AutoContrast', None),
    ('Equalize', None),
    ('Invert', None),
    ('Rotate', (0, 30)),
    ('Posterize', (4, 0)),
    ('Solarize', (256, 0)),
    ('SolarizeAdd', (0, 110)),
    ('ColorTransform', (0, 0.9)),
    ('Contrast', (0, 0.9)),
    ('Brightness', (0, 0.9)),
    ('Sharpness', (0, 0.9)),
    ('Shear', (0, 0.3)),
    ('Shear', (0, 0.3)),
    ('Translate', (0, 0.45)),
    ('Translate', (0, 0.45)),
]


@pytest.fixture(scope='module')
def photo(tmp_path_factory):
    """A JPEG file of 500 x 375 px (width x height) with an EXIF orientation."""
    y, x = np.mgrid[:375, :500]
    waves = [128 + 90 * np.sin(x / a + y / b) for a, b in ((9, 31), (23, 7), (61, 13))]
    noise = np.random.default_rng(0).normal(0, 12, (375, 500, 3))
    path = tmp_path_factory.mktemp('photo') / 'photo.jpg'
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation, ignored by timm's reader
    pixels = np.clip(np.stack(waves, axis=-1) + noise, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path, quality=95, exif=exif)
    return str(path)


def pipeline_of(name, loader):
    return Compose(load(name)[loader].dataset.pipeline)


def preprocessor_of(name):
    config = load(name)
    settings = dict(type='ClsDataPreprocessor', batch_augments=config.model.train_cfg)
    return MODELS.build({**settings, **config.data_preprocessor})


@pytest.mark.parametrize('name', CLASSIFIERS)
def test_testing_is_torchvisions(name, photo):
    """Shorter side to size / 0.875, truncated, antialiased bicubic; centre crop; normalised RGB."""
    size, short = PIXELS[name], RESIZED[name]
    pipeline = pipeline_of(name, 'test_dataloader')
    loading, resize, crop, _ = pipeline.transforms
    step = dict(img_path=photo, gt_label=3)
    assert loading(step)['img'].shape == (375, 500, 3)
    assert resize(step)['img'].shape == (short, short * 500 // 375, 3)
    assert crop(step)['img'].shape == (size, size, 3)
    packed = pipeline(dict(img_path=photo, gt_label=3))
    assert packed['inputs'].dtype == torch.uint8 and packed['data_samples'].gt_label.tolist() == [3]
    data = dict(inputs=[packed['inputs']], data_samples=[packed['data_samples']])
    found = preprocessor_of(name)(data)['inputs'][0]
    expected = transforms.Compose(
        [
            transforms.Resize(short, InterpolationMode.BICUBIC),
            transforms.CenterCrop(size),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )(Image.open(photo).convert('RGB'))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize('name', CLASSIFIERS)
def test_training_pipeline(name, photo):
    pipeline = pipeline_of(name, 'train_dataloader')
    kinds = [type(transform).__name__ for transform in pipeline.transforms]
    assert kinds == [
        'PillowLoadImageFromFile',
        'RandomResizedCropAndInterpolation',
        'RandomFlip',
        'RandomChoice',
        'RandomErasing',
        'PackInputs',
    ]
    _, crop, flip, _, _, _ = pipeline.transforms
    assert (crop.crop_ratio_range, crop.aspect_ratio_range) == ((0.08, 1.0), (3 / 4, 4 / 3))
    assert (crop.scale, crop.backend) == ((PIXELS[name],) * 2, 'pillow')
    assert (flip.prob, flip.direction) == (0.5, 'horizontal')
    np.random.seed(0)
    drawn = set()
    for _ in range(10):
        packed = pipeline(dict(img_path=photo, gt_label=3))
        assert packed['inputs'].shape == (3, PIXELS[name], PIXELS[name])
        assert packed['inputs'].dtype == torch.uint8
        drawn.add(crop.interpolation)
    assert drawn == {'bilinear', 'bicubic'}


@pytest.mark.parametrize('name', DISTILLED)
def test_distillation_sees_the_same_data(name):
    config, plain = load(name), load(name[:-1])
    for key in ('train_dataloader', 'val_dataloader', 'test_dataloader', 'data_preprocessor'):
        assert config[key] == plain[key]
    assert config.model.train_cfg == plain.model.train_cfg


def built(name, kind):
    """One transform of the training pipeline."""
    (transform,) = (t for t in load(name).train_dataloader.dataset.pipeline if t['type'] == kind)
    return TRANSFORMS.build(transform)


def rand_augments(name):
    """The two RandAugment transforms of a recipe, one of which is chosen per image with equal probability."""
    choice = built(name, 'RandomChoice')
    assert choice.prob is None
    augments = [step for steps in choice.transforms for step in steps]
    assert [type(augment).__name__ for augment in augments] == ['RandAugment'] * 2
    return augments


@pytest.mark.parametrize('name', CLASSIFIERS)
def test_rand_augment(name):
    """rand-m9-mstd0.5-inc1: 2 of 15 operations, each with probability 0.5, at level 9 +- 0.5 of 10."""
    for augment, interpolation in zip(rand_augments(name), ('bilinear', 'bicubic')):
        assert augment.num_policies == 2
        assert [(type(op).__name__, op.magnitude_range) for op in augment.transforms] == POLICY
        directions = [op.direction for op in augment.transforms if hasattr(op, 'direction')]
        assert directions == ['horizontal', 'vertical'] * 2
        assert {op.prob for op in augment.transforms} == {0.5}
        strong = [op for op in augment.transforms if op.magnitude_range]
        assert {(op.magnitude_level, op.magnitude_std, op.total_level) for op in strong} == {(9, 0.5, 10)}
        filled = [op for op in augment.transforms if hasattr(op, 'pad_val')]
        assert len(filled) == 5
        assert all(tuple(op.pad_val) == (104, 116, 124) for op in filled)  # the mean in BGR
        assert {op.interpolation for op in filled} == {interpolation}


def test_rand_augment_magnitudes_and_fill():
    (rotate,) = (op for op in rand_augments('b1')[0].transforms if type(op).__name__ == 'Rotate')
    np.random.seed(0)
    angles = np.array([rotate.random_magnitude() for _ in range(4000)])
    assert angles.mean() == pytest.approx(27, abs=0.1) and angles.max() == 30  # clipped at level 10
    assert angles.std() == pytest.approx(1.45, abs=0.05)  # 0.5 levels are 1.5 degrees, reduced by clipping
    disabled = np.mean([rotate.random_disable() for _ in range(4000)])
    assert disabled == pytest.approx(0.5, abs=0.03)
    negative = np.mean([rotate.random_negative(1) for _ in range(4000)])
    assert negative == pytest.approx(0, abs=0.06)
    rotate.prob = 1.0
    corner = rotate(dict(img=np.full((64, 64, 3), 250, np.uint8)))['img'][0, 0]
    assert corner.tolist() == [104, 116, 124]


@pytest.mark.parametrize('name', CLASSIFIERS)
def test_random_erasing(name):
    """For 25 % of the images, 2 to 33 % of the area, with standard normal noise after normalisation."""
    erase = built(name, 'RandomErasing')
    assert (erase.erase_prob, erase.min_area_ratio, erase.max_area_ratio) == (0.25, 0.02, 1 / 3)
    assert erase.aspect_range == (3 / 10, 10 / 3) and erase.mode == 'rand'


def test_erased_pixels():
    erase = built('b1', 'RandomErasing')
    np.random.seed(0)
    areas, pixels, marked = [], [], np.full((128, 128, 3), 1000, np.int64)
    for _ in range(2000):
        results = erase(dict(img=marked.copy()))
        erased = (results['img'] != 1000).all(-1)
        if erased.any():
            areas.append(erased.mean())
            pixels.append(results['img'][erased])
            rows, columns = erased.any(1), erased.any(0)
            assert erased.sum() == rows.sum() * columns.sum()  # a single rectangle
    assert len(areas) / 2000 == pytest.approx(0.25, abs=0.03)
    assert 0.018 < min(areas) < 0.03 and 0.31 < max(areas) < 0.34
    assert np.mean(areas) == pytest.approx((0.02 + 1 / 3) / 2, abs=0.015)
    blue_first = np.concatenate(pixels).astype(float)
    noise = (blue_first - MEAN[::-1]) / STD[::-1]
    # Images have integer values from 0 to 255, which clips the noise at two standard deviations.
    assert noise.mean(0) == pytest.approx(np.zeros(3), abs=0.03)
    assert noise.std(0) == pytest.approx(np.full(3, 0.97), abs=0.02)


def batch_of(size):
    """Uniform images of different classes; the value of an image is its class."""
    inputs = [torch.full((3, 16, 16), value, dtype=torch.uint8) for value in range(size)]
    return dict(inputs=inputs, data_samples=[DataSample().set_gt_label(value) for value in range(size)])


def test_mixed_targets():
    """Always Mixup 0.8 or CutMix 1.0 with equal probability; targets are the classes' shares of pixels."""
    preprocessor, alphas = preprocessor_of('b1'), []
    draw = np.random.beta
    np.random.seed(0)
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np.random, 'beta', lambda a, b: alphas.append((a, b)) or draw(a, b))
        for _ in range(400):
            data = preprocessor(batch_of(8), training=True)
            scores = torch.stack([sample.gt_score for sample in data['data_samples']])
            assert scores.shape == (8, 1000)
            torch.testing.assert_close(scores.sum(1), torch.ones(8))
            assert (scores >= 0).all() and ((scores > 0).sum(1) <= 2).all()
            values = data['inputs'] * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
            means = (scores * torch.arange(1000.0)).sum(1)
            torch.testing.assert_close(values.mean((1, 2, 3)), means, atol=1e-4, rtol=0)
            mixed = (values.std((2, 3)) < 1e-3).all()  # no edges
            assert mixed or alphas[-1] == (1.0, 1.0)
    assert len(alphas) == 400 and set(alphas) == {(0.8, 0.8), (1.0, 1.0)}
    assert alphas.count((0.8, 0.8)) / 400 == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize('name', [*CLASSIFIERS, *DISTILLED])
def test_classifier_mixes_and_smooths(name):
    """The model has these augmentations, and its loss a label smoothing of 0.1."""
    model = build(load(name))
    augments = model.data_preprocessor.batch_augments
    assert augments.probs is None
    assert [(type(a).__name__, a.alpha) for a in augments.augments] == [('Mixup', 0.8), ('CutMix', 1.0)]
    assert augments.augments[1].correct_lam and augments.augments[1].cutmix_minmax is None
    logits = torch.randn(4, 1000)
    targets = 0.7 * F.one_hot(torch.arange(4), 1000) + 0.3 * F.one_hot(torch.arange(4) + 9, 1000)
    smooth = 0.9 * targets + 0.1 / 1000
    expected = -(smooth * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(model.head.loss_module(logits, targets), expected)
    assert model.head.loss_module.loss_weight == 1.0
