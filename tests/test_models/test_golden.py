"""The network against outputs of the authors' network (tests/data/golden)."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmmobilemamba import MobileMamba
from mmmobilemamba.models.backbones.arch import ARCHS
from mmmobilemamba.models.checkpoint import convert_backbone, convert_head, rename

from ..conftest import authors_checkpoint, golden, image_for, noise_for, relative_error

EVAL_BOUND = 1e-6  # as in the README
TRAINABLE = dict(t2=8806682, t4=14137690, s6=14996696, b1=17070625, b2=17070625, b4=17070625)


@pytest.fixture(scope='module', params=['t2', 'b1'])
def case(request):
    arch = request.param
    backbone = MobileMamba(arch, out_indices=(0, 1, 2)).eval()
    backbone.load_state_dict(authors_checkpoint(arch))
    return arch, backbone, golden(arch)


def logits_of(backbone, head, x, training=False):
    """Global average pooling, BatchNorm1d and Linear with the names of the converted head."""
    pooled = backbone(x)[-1].mean((2, 3))
    stats = (head['head.head.bn.running_mean'], head['head.head.bn.running_var'])
    affine = (head['head.head.bn.weight'], head['head.head.bn.bias'])
    normed = F.batch_norm(pooled, *stats, *affine, training=training)
    return F.linear(normed, head['head.head.linear.weight'], head['head.head.linear.bias'])


@torch.no_grad()
def test_features(case):
    arch, backbone, expected = case
    image = image_for((2, 3, 96, 128) if arch == 't2' else (1, 3, 160, 224))
    features = (backbone.stem(image), *backbone(image))
    for index, feature in enumerate(features):
        assert relative_error(feature, expected[f'feat{index}']) < EVAL_BOUND


@torch.no_grad()
def test_logits(case):
    arch, backbone, expected = case
    image = image_for((2, 3, 192, 192) if arch == 't2' else (1, 3, 256, 256))
    logits = logits_of(backbone, convert_head(authors_checkpoint(arch)), image)
    assert relative_error(logits, expected['logits']) < EVAL_BOUND


@torch.no_grad()
@pytest.mark.parametrize(
    ('stage', 'block', 'size'), [(1, 0, (160, 200, 9, 7)), (2, 0, (256, 376, 5, 6)), (3, 0, (272, 448, 3, 4))]
)
def test_mixer_parts(stage, block, size):
    backbone = MobileMamba('b1').eval()
    backbone.load_state_dict(authors_checkpoint('b1'))
    expected = golden('mixer_b1')
    global_channels, channels, height, width = size
    mixer = backbone.stages[stage - 1].blocks[block].mixer.fn
    x = noise_for((2, global_channels, height, width), stage)
    assert relative_error(mixer.global_op.ss2d(x), expected[f'ss2d{stage}']) < EVAL_BOUND
    assert relative_error(mixer.global_op(x), expected[f'wte{stage}']) < EVAL_BOUND
    x = noise_for((2, channels, height, width), 10 + stage)
    assert relative_error(mixer(x), expected[f'mixer{stage}']) < EVAL_BOUND


def test_training_step():
    """In float64: in float32, rounding can flip the sign of a ReLU's input and change gradients."""
    checkpoint, expected = authors_checkpoint('b1'), golden('b1')
    backbone = MobileMamba('b1', drop_path_rate=0).train()
    backbone.load_state_dict(dict(checkpoint))
    backbone.double()
    head = {key: value.double() for key, value in convert_head(checkpoint).items()}
    trained_head = {key: value for key, value in head.items() if key.endswith(('weight', 'bias'))}
    for value in trained_head.values():
        value.requires_grad_()
    image = image_for((4, 3, 64, 96)).double().requires_grad_()

    logits = logits_of(backbone, head, image, training=True)
    loss = logits.pow(2).mean()
    loss.backward()

    assert relative_error(logits.detach(), expected['train_logits']) < 1e-4
    assert loss.item() == pytest.approx(float(expected['train_loss']), rel=1e-4)
    assert relative_error(image.grad, expected['train_input_grad']) < 1e-3
    ours = {**dict(backbone.named_parameters()), **trained_head}
    names = {name: our_name(name) for name in expected['grad_names']}
    assert set(names.values()) == set(ours)
    # The gradients of some biases before a batch norm are rounding errors only.
    rounding = 1e-6 * expected['grad_norms'].max()
    for name, norm in zip(expected['grad_names'], expected['grad_norms']):
        assert ours[names[name]].grad.norm().item() == pytest.approx(norm, rel=1e-3, abs=rounding), name
    buffers = {**dict(backbone.named_buffers()), **head}
    for name, norm in zip(expected['stat_names'], expected['stat_norms']):
        assert buffers[our_name(name)].norm().item() == pytest.approx(norm, rel=1e-4), name


def our_name(name):
    return next(iter(convert_head({name: None})), None) or rename(str(name))


@pytest.mark.parametrize('arch', sorted(ARCHS))
def test_parameter_count_and_every_key_converted(arch):
    checkpoint = authors_checkpoint(arch)
    backbone = MobileMamba(arch, out_indices=(0, 1, 2))
    head = convert_head(checkpoint)
    converted = convert_backbone(checkpoint)

    constants = [key for key in checkpoint if key.endswith('t_filter')]
    assert len(converted) + len(head) + len(constants) == len(checkpoint)
    shapes = {key: tuple(value.shape) for key, value in backbone.state_dict().items()}
    assert {key: tuple(value.shape) for key, value in converted.items()} == shapes

    in_head = sum(value.numel() for key, value in head.items() if key.endswith(('weight', 'bias')))
    trainable = sum(p.numel() for p in backbone.parameters() if p.requires_grad)
    assert trainable + in_head == TRAINABLE[arch]


def test_a_wrong_scan_would_be_seen():
    """The bounds above are strict: changing the decay by 1 % changes the first stage by far more."""
    backbone = MobileMamba('b1', out_indices=0).eval()
    backbone.load_state_dict(authors_checkpoint('b1'))
    image = image_for((1, 3, 160, 224))
    with torch.no_grad():
        for block in backbone.stages[0].blocks:
            block.mixer.fn.global_op.ss2d.A_log += np.log(1.01)
        assert relative_error(backbone(image)[0], golden('b1')['feat1']) > 1e-4
