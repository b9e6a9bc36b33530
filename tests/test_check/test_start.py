"""A training whose maps do not match its heads stops before the first step and says how to fix it."""

import time

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmmobilemamba import MobileMamba
from mmmobilemamba.check.maps import parts_of
from mmmobilemamba.check.rounds import check_maps

from ..conftest import ROOT
from .stock import build_runner, swapped

pytest.importorskip('mmdet')

FINER = [
    "custom_imports = dict(imports=['mmmobilemamba.mmdet'])",
    "model = dict(neck=dict(_delete_=True, type='DeconvFPN', in_channels=[144, 272, 368], out_channels=256, "
    '{}))',
]
MENDED = dict(
    retinanet=[
        [FINER[0], FINER[1].format("add_extra_convs='on_input', num_outs=5")],
        ['model = dict(bbox_head=dict(anchor_generator=dict(strides=[16, 32, 64, 128, 256])))'],
    ],
    fcos=[
        [
            FINER[0],
            FINER[1].format("add_extra_convs='on_output', relu_before_extra_convs=True, num_outs=5"),
        ],
        ['model = dict(bbox_head=dict(strides=[16, 32, 64, 128, 256]))'],
    ],
    faster_rcnn=[
        [FINER[0], FINER[1].format('num_outs=5, num_extra_trans_convs=2')],
        [
            'model = dict(rpn_head=dict(anchor_generator=dict(strides=[16, 32, 64, 128, 256])),'
            ' roi_head=dict(bbox_roi_extractor=dict(featmap_strides=[16, 32, 64, 128])))'
        ],
    ],
    yolox=[
        [
            'model = dict(bbox_head=dict(strides=[16, 32, 64]), data_preprocessor=dict(pad_size_divisor=64, '
            "batch_augments=[dict(type='BatchSyncRandomResize', random_size_range=(480, 800), "
            'size_divisor=64, interval=10)]))'
        ]
    ],
)
WRONG = dict(
    retinanet=['bbox_head has strides 8, 16, 32, 64, 128, but its maps have 16, 32, 64, 128, 256.'],
    fcos=['bbox_head has strides 8, 16, 32, 64, 128, but its maps have 16, 32, 64, 128, 256.'],
    faster_rcnn=[
        'rpn_head has strides 4, 8, 16, 32, 64, but its maps have 16, 32, 64, 128, 256.',
        'roi_head.bbox_roi_extractor has strides 4, 8, 16, 32, but its maps have 16, 32, 64, 128.',
    ],
    yolox=[
        'bbox_head has strides 8, 16, 32, but its maps have 16, 32, 64.',
        'The neck only accepts image sides in multiples of 64, but batch_augments produces multiples of 32.',
    ],
)


class Losses(Hook):
    """Keeps the outputs of each iteration."""

    def __init__(self):
        self.seen = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.seen.append(outputs['loss'].item())


def ways(message):
    """The blocks of config lines in an error message."""
    _, _, rest = message.partition('to a config that inherits from this one:\n')
    rest, _, _ = rest.partition('\nFor details, run `mim run mmmobilemamba check')
    return [block.splitlines() for block in rest.split('\nAlternatively, if finer maps cost too much:\n')]


def one_line(lines):
    """Join settings that span several lines."""
    text = '\n'.join(lines).replace('(\n    ', '(').replace(',\n    ', ', ').replace(',\n)', ')')
    return text.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize('name', MENDED)
def test_stock_config_with_one_line_swapped(name, tmp_path, scenes):
    runner = build_runner(swapped(name, tmp_path, scenes))
    losses = Losses()
    runner.register_hook(losses)
    with pytest.raises(ValueError, match='does not match the feature maps of its backbone') as refused:
        runner.train()
    assert (runner.iter, losses.seen) == (0, [])
    message = str(refused.value)
    assert [line[2:] for line in message.splitlines() if line.startswith('- ')] == WRONG[name]
    blocks = ways(message)
    assert [one_line(block) for block in blocks] == MENDED[name]

    for block in blocks:
        mended = build_runner(swapped(name, tmp_path, scenes, block))
        losses = Losses()
        mended.register_hook(losses)
        mended.train()
        assert mended.iter == len(losses.seen) == 1
        assert all(0 < loss < 1e4 for loss in losses.seen)


@pytest.mark.slow
def test_who_knows_better_switches_it_off(tmp_path, scenes):
    runner = build_runner(swapped('retinanet', tmp_path, scenes), mobilemamba_check=False)
    runner.train()
    assert runner.iter == 1


def test_it_takes_no_time(tmp_path, scenes):
    """The check takes well under a second; 0.04 s on an idle core."""
    config = Config.fromfile(swapped('retinanet', tmp_path, scenes))
    init_default_scope('mmdet')
    model = MODELS.build(config.model)
    (part,) = parts_of(model, MobileMamba)
    start = time.process_time()
    check_maps(part, config)
    assert time.process_time() - start < 1


def test_it_leaves_the_model_and_random_numbers_alone(tmp_path, scenes):
    config = Config.fromfile(swapped('faster_rcnn', tmp_path, scenes))
    init_default_scope('mmdet')
    model = MODELS.build(config.model).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    children, modes = list(model.named_children()), [module.training for module in model.modules()]
    state = torch.random.get_rng_state()
    (part,) = parts_of(model, MobileMamba)
    check_maps(part, config)
    assert torch.equal(state, torch.random.get_rng_state())
    assert list(model.named_children()) == children
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_outside_of_a_runner_nothing_happens(tmp_path, scenes):
    """The same model in a custom training loop, and parts of it in other models."""
    config = Config.fromfile(swapped('retinanet', tmp_path, scenes))
    init_default_scope('mmdet')
    model = MODELS.build(config.model)
    assert model.train().training
    assert nn.Sequential(model.backbone).train()[0].training


@pytest.mark.parametrize('path', sorted((ROOT / 'configs').glob('[!_]*/*.py')), ids=lambda path: path.stem)
def test_recipes_pass(path):
    config = Config.fromfile(path)
    pytest.importorskip(config.default_scope)
    init_default_scope(config.default_scope)
    config.model.backbone.init_cfg = None
    settings = dict(config.model)
    if 'data_preprocessor' in config:
        settings.setdefault('data_preprocessor', config.data_preprocessor)
    with torch.device('meta'):
        model = MODELS.build(settings)
    (part,) = parts_of(model, MobileMamba)
    findings = check_maps(part, config)
    assert findings and {finding.level for finding in findings} == {'ok'}, findings
