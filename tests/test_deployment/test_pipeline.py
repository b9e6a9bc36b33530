"""Image sizes after test pipelines: the package's, the codebases', infer.py's and the web page's."""

import json
import shutil
import subprocess
from itertools import product

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import TRANSFORMS, init_default_scope

from mmmobilemamba.deployment import pipeline
from mmmobilemamba.deployment.errors import DeploymentError

from ..conftest import ROOT, load_script

pytest.importorskip('onnxruntime')
infer = load_script('tools/deployment/infer.py')

SIDES = (1, 7, 31, 32, 33, 224, 333, 640, 801)
PICTURES = list(product(SIDES, SIDES))  # (height, width)
EDGE = dict(type='ResizeEdge', scale=36)
CROP = dict(type='CenterCrop', crop_size=32)
PIPELINES = dict(
    nothing=[],
    resize=[dict(type='Resize', scale=(41, 30))],
    resize_of_one_side=[dict(type='Resize', scale=41)],
    keep_ratio=[dict(type='Resize', scale=(133, 80), keep_ratio=True)],
    keep_ratio_of_portraits=[dict(type='Resize', scale=(80, 133), keep_ratio=True)],
    square=[dict(type='Resize', scale=(64, 64), keep_ratio=True)],
    short=[EDGE],
    **{edge: [dict(EDGE, edge=edge)] for edge in ('long', 'width', 'height')},
    crop=[CROP],
    crop_of_two_sides=[dict(type='CenterCrop', crop_size=(48, 24))],
    classification=[EDGE, CROP],
    crop_of_a_resize=[dict(type='Resize', scale=(133, 80), keep_ratio=True), CROP],
    pad_to_a_size=[dict(type='Resize', scale=(133, 80), keep_ratio=True), dict(type='Pad', size=(140, 133))],
    pad_to_a_square=[
        dict(type='Resize', scale=(133, 80), keep_ratio=True),
        dict(type='Pad', pad_to_square=True),
    ],
    pad_to_multiples=[
        dict(type='Resize', scale=(133, 80), keep_ratio=True),
        dict(type='Pad', size_divisor=32),
    ],
    pad_without_end=[dict(type='Pad', size_divisor=32)],
    crop_and_edge=[CROP, dict(EDGE, edge='long')],
)
DIVISORS = (1, 32, 20)
CONFIGS = [path for path in sorted((ROOT / 'configs').glob('*/*.py')) if path.parent.name != '_base_']

ON_THE_PAGE = """
import { readFileSync } from 'node:fs';
const { resizedSize, padSize, paddedSize } = await import(process.argv[1]);
const { pictures, pipelines, divisors } = JSON.parse(readFileSync(0, 'utf8'));
const pair = (value) => (Array.isArray(value) ? value : [value, value]);
const after = ([width, height], step) => step.type === 'Pad' ? padSize(width, height, step)
  : step.type !== 'CenterCrop' ? resizedSize(width, height, step)
  : [Math.min(width, pair(step.crop_size)[0]), Math.min(height, pair(step.crop_size)[1])];
console.log(JSON.stringify(pipelines.map((steps) => pictures.map(([height, width]) => {
  const size = steps.reduce(after, [width, height]);
  return [size, ...divisors.map((d) => paddedSize({ size: null, pad_divisor: d }, '', ...size))]
    .map(([w, h]) => [h, w]);
}))));
"""


def sizes_of(steps, picture):
    """Sizes computed by the package: after the steps, and padded to each of ``DIVISORS``."""
    size = pipeline.resize(picture, steps)
    return [size, *(pipeline.pad(size, divisor) for divisor in DIVISORS)]


@pytest.fixture(params=PIPELINES)
def steps(request):
    return pipeline.resize_steps(PIPELINES[request.param])


def test_sizes_of_the_codebases(steps):
    """Sizes of images transformed by mmcv and mmpretrain."""
    pytest.importorskip('mmpretrain.datasets.transforms')
    init_default_scope('mmpretrain')
    transforms = [TRANSFORMS.build(dict(step, _scope_='mmpretrain')) for step in as_tuples(steps)]
    for height, width in PICTURES:
        if any(1 in pipeline.resize((height, width), steps[: n + 1]) for n in range(len(steps))):
            continue  # the codebases refuse extreme aspect ratios
        sample = dict(img=np.zeros((height, width, 3), np.uint8), img_shape=(height, width))
        for transform in transforms:
            sample = transform(sample)
        assert pipeline.resize((height, width), steps) == sample['img'].shape[:2]


def as_tuples(steps):
    """Steps as in a config, with tuples instead of JSON's lists."""
    return [{key: tuple(v) if isinstance(v, list) else v for key, v in step.items()} for step in steps]


def test_sizes_of_infer(steps):
    for picture in PICTURES:
        pixels = np.zeros((*picture, 3), np.uint8)
        placement = infer.pictures.Placement(picture[::-1], shown=picture[::-1])
        for step in steps:
            if step['type'] in ('CenterCrop', 'Pad'):
                pixels, placement = infer.pictures.apply_step(pixels, placement, step)
            else:  # computed without resizing, which takes long
                width, height = infer.pictures.resized_size(pixels.shape[1], pixels.shape[0], step)
                pixels = np.broadcast_to(np.uint8(0), (height, width, 3))
        found = [infer.pictures.Preparation(dict(size=None, pad_divisor=d), '').padded_size for d in DIVISORS]
        found = [pixels.shape[:2], *(padded(*pixels.shape[:2]) for padded in found)]
        assert found == sizes_of(steps, picture)


def test_sizes_of_the_web_page():
    """The page's modules, in node."""
    node = shutil.which('node')
    if node is None:
        pytest.skip('node is not installed')
    pipelines = [pipeline.resize_steps(steps) for steps in PIPELINES.values()]
    command = [node, '--no-warnings', '--input-type=module', '-e', ON_THE_PAGE]
    result = subprocess.run(
        [*command, (ROOT / 'tools/deployment/web/prepare.js').as_uri()],
        input=json.dumps(dict(pictures=PICTURES, pipelines=pipelines, divisors=DIVISORS)),
        capture_output=True,
        text=True,
        check=False,
    )
    if 'import statement outside a module' in result.stderr:
        pytest.skip('this node takes no modules without a package.json')
    assert result.returncode == 0, result.stderr
    for steps, found in zip(pipelines, json.loads(result.stdout)):
        assert found == [[list(size) for size in sizes_of(steps, picture)] for picture in PICTURES]


def test_largest_sizes(steps):
    """Every image fits into one of the sizes, and each size is reached by some image."""
    sizes = pipeline.largest_sizes(steps)
    made = [pipeline.resize(picture, steps) for picture in (*PICTURES, (800, 1333), (1333, 800))]
    if not sizes:
        assert max(max(size) for size in made) > 133  # unbounded
        return
    assert all(any(np.less_equal(size, bound).all() for bound in sizes) for size in made)
    assert set(sizes) <= set(made)


@pytest.mark.parametrize(
    ('name', 'sizes'),
    dict(
        nothing=[],
        resize=[(30, 41)],
        keep_ratio=[(80, 133), (133, 80)],
        keep_ratio_of_portraits=[(133, 80), (80, 133)],
        square=[(64, 64)],
        short=[],
        long=[(36, 36)],
        width=[],
        crop_of_two_sides=[(24, 48)],
        classification=[(32, 32)],
        crop_of_a_resize=[(32, 32)],
    ).items(),
)
def test_largest_sizes_by_hand(name, sizes):
    assert pipeline.largest_sizes(pipeline.resize_steps(PIPELINES[name])) == sizes


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_recipes(path):
    """Every recipe has a largest size, which is in its name or is the usual one of its codebase."""
    config = Config.fromfile(path, import_custom_modules=False)
    ((height, width), *others) = pipeline.largest_sizes(
        pipeline.resize_steps(pipeline.read_test_pipeline(config))
    )
    if path.parent.name in ('rtmdet', 'yolox'):
        assert (height, width, *others) == ((160, 160) if 'digits' in path.stem else (640, 640))
    elif 'coco' in path.stem and path.parent.name != 'ssd':
        assert (height, width, *others) == (800, 1333, (1333, 800))
    elif 'ade20k' in path.stem:
        assert (height, width, *others) == (512, 2048, (2048, 512))
    elif path.parent.name in ('mobilemamba', 'ssd'):
        assert height == width and not others


@pytest.mark.parametrize(
    'step',
    [
        dict(type='Resize', scale_factor=2.0),
        dict(type='CenterCrop', crop_size=32, auto_pad=True),
        dict(type='mmdet.Pad', size_divisor=32, padding_mode='reflect'),
        dict(type='Pad'),
        dict(type='mmseg.ResizeToMultiple'),
    ],
)
def test_steps_that_are_unknown(step):
    with pytest.raises(
        DeploymentError, match=r'is not supported; it must be|Pad must have|known are Resize, ResizeEdge'
    ):
        pipeline.resize_steps([step])


def test_nested_datasets():
    steps = [dict(type='Resize', scale=8)]
    for dataset in (
        dict(pipeline=steps),
        dict(type='RepeatDataset', dataset=dict(pipeline=steps)),
        dict(type='ConcatDataset', datasets=[dict(pipeline=[]), dict(pipeline=steps)]),
    ):
        config = Config(dict(test_dataloader=dict(dataset=dataset)))
        assert pipeline.read_test_pipeline(config) == steps
    assert pipeline.read_test_pipeline(Config(dict())) == []


@pytest.mark.parametrize(
    ('preprocessor', 'divisor'),
    [
        (dict(), 1),
        (dict(pad_size_divisor=32), 32),
        (dict(size_divisor=32), 1),  # in training only
        (dict(test_cfg=dict(size_divisor=32)), 32),
    ],
)
def test_pad_divisors(preprocessor, divisor):
    """Settings of mmdet and mmpretrain, and of mmseg."""
    assert pipeline.pad_divisor_of(preprocessor) == divisor


def test_loaders_are_written_with_what_they_do_by_default():
    assert pipeline.loader_of([dict(type='PillowLoadImageFromFile', backend_args=None)]) == dict(
        type='PillowLoadImageFromFile', color_type='color_ignore_orientation'
    )
    gray = dict(type='PillowLoadImageFromFile', color_type='grayscale')
    assert pipeline.loader_of([gray]) == gray
    assert pipeline.loader_of([dict(type='mmcv.LoadImageFromFile')]) == dict(type='LoadImageFromFile')
