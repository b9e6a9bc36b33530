"""timm's requirements, for the models registered by ``mmmobilemamba.timm_models``."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip('timm')

import timm
from mmengine.dataset import Compose
from timm.data import create_transform, resolve_data_config
from timm.models._manipulate import group_parameters
from timm.optim import create_optimizer_v2

import mmmobilemamba.timm_models as timm_models
from mmmobilemamba import create_model
from mmmobilemamba.models.arch import ARCHS
from mmmobilemamba.models.checkpoint import CheckpointError

from ..conftest import authors_checkpoint, golden, image_for, relative_error
from ..helpers import randomise
from ..test_recipes.recipes import PIXELS, build, load

NAMES = [f'mobilemamba_{arch}{suffix}' for arch in PIXELS for suffix in ('', '_distilled')]


def make(name='mobilemamba_t2', **kwargs):
    return timm.create_model(name, **kwargs)


def image(size=64, channels=3, batch=2):
    return torch.rand(batch, channels, size, size)


@pytest.fixture(scope='module')
def network():
    """T2 with ten classes in which every branch affects the output; tests do not modify it."""
    torch.manual_seed(0)
    return randomise(make(num_classes=10))


def test_names():
    assert sorted(timm.list_models('mobilemamba*')) == sorted(NAMES)
    assert sorted(timm.list_models('mobilemamba*', pretrained=True)) == sorted(f'{n}.in1k' for n in NAMES)
    files = {name: timm.get_pretrained_cfg(name).file for name in NAMES}
    assert files['mobilemamba_b4'] == 'mobilemamba://b4'
    assert files['mobilemamba_s6_distilled'] == 'mobilemamba://s6-kd'


@pytest.mark.parametrize('arch', sorted(PIXELS))
def test_default_cfg_is_the_recipe(arch):
    """Image size, crop, interpolation, mean and standard deviation equal those of the test pipeline."""
    config, cfg = load(arch), timm.get_pretrained_cfg(f'mobilemamba_{arch}')
    _, resize, crop, _ = config.test_dataloader.dataset.pipeline
    assert cfg.input_size == (3, crop.crop_size, crop.crop_size)
    assert (resize.type, resize.edge, int(crop.crop_size / cfg.crop_pct)) == (
        'ResizeEdge',
        'short',
        resize.scale,
    )
    assert (cfg.interpolation, cfg.crop_mode) == (resize.interpolation, 'center')
    assert np.allclose(np.multiply(cfg.mean, 255), config.data_preprocessor.mean)
    assert np.allclose(np.multiply(cfg.std, 255), config.data_preprocessor.std)


def test_transform_makes_the_image_of_the_recipe(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    path = tmp_path / 'picture.png'
    picture = Image.fromarray(pixels).resize((500, 375), Image.BICUBIC)
    picture.save(path)
    config = load('t2')
    data = Compose(config.test_dataloader.dataset.pipeline)(dict(img_path=str(path)))
    preprocessor = build(config, 'cpu').data_preprocessor
    theirs = preprocessor(dict(inputs=[data['inputs']], data_samples=[data['data_samples']]))['inputs'][0]
    ours = create_transform(**resolve_data_config(model=make()))(picture)
    assert ours.shape == theirs.shape == (3, 192, 192)
    assert (ours - theirs).abs().max() < 1e-5


@pytest.mark.parametrize('name', NAMES)
def test_shapes(name):
    """Shapes of features, logits and maps match the config; on 'meta', where only shapes are computed."""
    arch = name.split('_')[1]
    model = make(name, device='meta', dtype=torch.float32).eval()
    cfg, width = model.default_cfg, ARCHS[arch]['embed_dims'][-1]
    assert all(tensor.device.type == 'meta' for tensor in model.state_dict().values())
    assert {f'{cfg["classifier"]}.weight', f'{cfg["first_conv"]}.weight'} <= set(model.state_dict())
    assert model.num_features == model.head_hidden_size == width
    x = torch.zeros(1, *cfg['input_size'], device='meta')
    features = model.forward_features(x)
    assert features.shape == (1, width, *cfg['pool_size'])
    assert model.forward_head(features, pre_logits=True).shape == (1, width)
    assert model.forward_head(features).shape == (1, 1000)
    assert [f['reduction'] for f in model.feature_info] == [16, 32, 64]


@torch.no_grad()
@pytest.mark.parametrize(('arch', 'shape'), [('t2', (2, 3, 192, 192)), ('b1', (1, 3, 256, 256))])
def test_pretrained(authors_weights, arch, shape):
    logits = make(f'mobilemamba_{arch}', pretrained=True).eval()(image_for(shape))
    assert torch.equal(logits, create_model(arch, pretrained=True).eval()(image_for(shape)))
    assert relative_error(logits, golden(arch)['logits']) < 1e-6


@torch.no_grad()
def test_pretrained_for_other_data(authors_weights):
    gray = image(channels=1)
    model = make(pretrained=True, num_classes=5, in_chans=1).eval()
    expected = make(pretrained=True, num_classes=0).eval()(gray.expand(-1, 3, -1, -1))
    assert relative_error(model.forward_head(model.forward_features(gray), pre_logits=True), expected) < 1e-4
    assert model(gray).shape == (2, 5) and model.get_classifier().head.linear.weight.shape == (5, 368)
    assert model.in_chans == 1


@pytest.mark.parametrize('form', ['flat', 'average', 'ours'])
@pytest.mark.parametrize('way', ['checkpoint_path', 'overlay'])
def test_files_of_ones_own(authors_weights, tmp_path, form, way):
    flat = authors_checkpoint('t2')
    forms = dict(flat=flat, average=dict(net=flat, net_E=flat), ours=create_model('t2', True).state_dict())
    path = tmp_path / 'file.pth'
    torch.save(forms[form], path)
    file = dict(checkpoint_path=path)
    if way == 'overlay':
        file = dict(pretrained=True, pretrained_cfg_overlay=dict(file=str(path)))
        assert make(**file, in_chans=4, num_classes=3)(image(channels=4)).shape == (2, 3)
    found, expected = make(**file).state_dict(), forms['ours']
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize('num_classes', [10, 1000])
@pytest.mark.parametrize(
    ('weights', 'message'),
    [
        (lambda: authors_checkpoint('t4'), 'looks like a MobileMamba T4'),
        (lambda: {'conv1.weight': torch.zeros(64, 3, 7, 7)}, 'looks like no MobileMamba'),
    ],
)
def test_files_of_other_networks(tmp_path, weights, message, num_classes):
    """With another number of classes, timm loads matching weights, and is silent even if there are none."""
    torch.save(weights(), tmp_path / 'other.pth')
    overlay = dict(file=str(tmp_path / 'other.pth'))
    with pytest.raises(CheckpointError, match=message):
        make(pretrained=True, pretrained_cfg_overlay=overlay, num_classes=num_classes)


@torch.no_grad()
def test_folder_for_a_hub(tmp_path):
    """The folder that timm uploads to a hub, and loads from a hub or a folder."""
    model = randomise(make(num_classes=4, in_chans=1))
    timm.models.save_for_hf(model, tmp_path, model_args=dict(in_chans=1))
    loaded = timm.create_model(f'local-dir:{tmp_path}', pretrained=True).eval()
    x = image(channels=1)
    assert torch.equal(loaded(x), model(x)) and loaded.num_classes == 4
    assert timm.create_model(f'local-dir:{tmp_path}', pretrained=True, num_classes=2).eval()(x).shape == (
        2,
        2,
    )


@torch.no_grad()
def test_features_only(authors_weights):
    maps = create_model('t2', True, features_only=True).eval()(image_for((2, 3, 96, 128)))
    features = make(pretrained=True, features_only=True).eval()
    assert features.feature_info.channels() == [144, 272, 368]
    assert features.feature_info.reduction() == [16, 32, 64]
    found = features(image_for((2, 3, 96, 128)))
    assert all(torch.equal(a, b) for a, b in zip(found, maps)) and len(found) == 3
    early = make(pretrained=True, features_only=True, out_indices=(0, 1)).eval()
    assert len(early.model.backbone.stages) == 2 and early.feature_info.channels() == [144, 272]
    found = early(image_for((2, 3, 96, 128)))
    assert all(torch.equal(a, b) for a, b in zip(found, maps)) and len(found) == 2
    hooked = make(pretrained=True, features_only=True, feature_cls='hook').eval()(image_for((2, 3, 96, 128)))
    assert all(torch.equal(a, b) for a, b in zip(hooked, maps))


@torch.no_grad()
def test_forward_intermediates(network):
    x = image()
    final, maps = network.forward_intermediates(x)
    assert torch.equal(final, network.forward_features(x)) and torch.equal(final, maps[2])
    final, (second,) = network.forward_intermediates(x, indices=[1])
    assert torch.equal(second, maps[1]) and torch.equal(final, maps[2])
    final, chosen = network.forward_intermediates(x, indices=[1, 0], stop_early=True)
    assert torch.equal(final, maps[1]) and all(torch.equal(a, b) for a, b in zip(chosen, maps[:2]))
    last = network.forward_intermediates(x, indices=2, intermediates_only=True)
    assert len(last) == 2 and torch.equal(last[0], maps[1])
    with pytest.raises(ValueError, match="output_fmt must be 'NCHW', not 'NLC'"):
        network.forward_intermediates(x, output_fmt='NLC')


@torch.no_grad()
def test_prune_intermediate_layers():
    model = randomise(make(num_classes=10))
    x = image()
    logits, maps = model(x), model.forward_intermediates(x, intermediates_only=True)
    assert model.prune_intermediate_layers([2], prune_head=False) == [2]
    assert torch.equal(model(x), logits)
    assert model.prune_intermediate_layers([-2]) == [1]
    assert torch.equal(model(x), maps[1]) and model.num_features == 272 and model.num_classes == 0
    assert torch.equal(model.forward_intermediates(x, [1], intermediates_only=True)[0], maps[1])


def test_reset_classifier_and_pool():
    model = make(num_classes=10)
    assert model.get_classifier().head.linear.out_features == 10
    model.reset_classifier(0)
    assert model(image()).shape == (2, 368)
    model.reset_classifier(0, '')
    assert model(image()).shape == (2, 368, 1, 1) and model.global_pool == ''
    model.reset_classifier(3)
    with pytest.raises(ValueError, match='The head reads pooled features'):
        model(image())
    model.reset_classifier(3, 'avg')
    assert model(image()).shape == (2, 3)
    assert make(num_classes=0, global_pool='')(image(128)).shape == (2, 368, 2, 2)
    with pytest.raises(ValueError, match='The head reads pooled features'):
        make(global_pool='')
    with pytest.raises(ValueError, match="global_pool must be 'avg', or '' for maps, not 'max'"):
        make(num_classes=0, global_pool='max')
    with pytest.raises(TypeError, match='colour'):
        make(colour=1)


def gradients(model, x):
    model.zero_grad()
    model(x).square().mean().backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


def test_backward_and_checkpointing():
    model, x = randomise(make(num_classes=10, drop_path_rate=0.0)).train(), image(128)
    plain = gradients(model, x)
    assert all(grad.isfinite().all() for grad in plain)
    model.set_grad_checkpointing()
    assert all(stage.with_cp for stage in model.backbone.stages)
    for ours, theirs in zip(gradients(model, x), plain):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)
    model.set_grad_checkpointing(False)
    assert not any(stage.with_cp for stage in model.backbone.stages)


def test_rates():
    model = make(drop_rate=0.4, drop_path_rate=0.3)
    assert model.head.head.drop.p == 0.4 and model.backbone.stages[-1].blocks[-1].drop_path.drop_prob == 0.3
    model.reset_classifier(2)
    assert model.head.head.drop.p == 0.4
    b1 = make('mobilemamba_b1', device='meta').backbone.stages[-1].blocks[-1].drop_path
    assert b1.drop_prob == pytest.approx(0.03)


def test_layers_of_parameters(network):
    """timm's layer-wise decay uses the same layers as ours."""
    layers = group_parameters(network, network.group_matcher(), reverse=True)
    expected = {
        name: network.backbone.get_layer_depth(name, prefix='backbone.')[0]
        for name, _ in network.named_parameters()
    }
    assert layers == expected
    coarse = group_parameters(network, network.group_matcher(coarse=True), reverse=True)
    assert coarse['backbone.stages.2.blocks.1.dw0.fn.conv.weight'] == 3
    assert max(coarse.values()) == coarse['head.head.linear.weight'] == 4
    optimizer = create_optimizer_v2(network, 'adamw', lr=1.0, weight_decay=0.05, layer_decay=0.5)
    scales = {group['lr_scale'] for group in optimizer.param_groups}
    assert scales == {0.5**depth for depth in range(max(layers.values()) + 1)}


def test_weight_decay_is_that_of_the_recipe(network):
    optimizer = create_optimizer_v2(network, 'adamw', lr=1.0, weight_decay=0.05)
    plain, decayed = optimizer.param_groups
    assert {parameter.ndim for parameter in plain['params']} == {1} and plain['weight_decay'] == 0
    assert all(parameter.ndim > 1 for parameter in decayed['params']) and decayed['weight_decay'] == 0.05


@torch.no_grad()
def test_fx_and_traces(network):
    x = image()
    expected = network(x)
    torch.testing.assert_close(torch.fx.symbolic_trace(network)(x), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.jit.trace(network, x)(x), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(TypeError, match=r'cannot be scripted\. Call torch\.jit\.trace'):
        torch.jit.script(network)


@torch.no_grad()
def test_other_type_after_a_call(network):
    model = randomise(make(num_classes=10))
    expected = model(image_for((2, 3, 96, 128)))
    found = model.bfloat16()(image_for((2, 3, 96, 128)).bfloat16())
    assert found.dtype == torch.bfloat16 and relative_error(found.float(), expected) < 0.05


def test_needs_timm(tmp_path):
    code = 'import sys; sys.modules["timm"] = None; import mmmobilemamba.timm_models'
    result = subprocess.run(
        [sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert 'needs timm 1.0.3 or newer: python -m pip install "timm>=1.0.3"' in result.stderr


def test_registered_once():
    assert sorted(timm_models.__all__) == sorted([*NAMES, 'TimmMobileMamba'])
