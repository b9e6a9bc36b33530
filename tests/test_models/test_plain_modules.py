"""The network in training form consists of plain modules, each with the function of its name.

They are compared with a functional implementation of the network in this file.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmmobilemamba.models import compile_regions
from mmmobilemamba.models.layers import Residual
from mmmobilemamba.models.layers.wte_mamba import band_weight
from mmmobilemamba.ops import haar_dwt, haar_idwt, selective_scan

from ..conftest import image_for, noise_for, relative_error
from ..helpers import needs_torch
from .test_backbone import SMALL, small


class Reference:
    """MobileMamba in evaluation mode, implemented with functions.

    Args:
        backbone (MobileMamba): The backbone whose weights and sizes are used, not deployed.
        deltas (dict[str, Tensor], optional): Added to the outputs of convolutions, by name.
        without (str, optional): Name of an activation to omit.

    Attributes:
        seen (dict[str, Tensor]): Outputs of convolutions, norms and activations, by module name.
    """

    def __init__(self, backbone, deltas=None, without=None):
        self.p, self.depths = backbone.state_dict(), [len(stage.blocks) for stage in backbone.stages]
        self.splits = [stage.blocks[0].mixer.fn.splits for stage in backbone.stages]
        self.deltas, self.without, self.seen = deltas or {}, without, {}

    def __call__(self, x):
        for index in (0, 2, 4):
            x = self.relu(f'stem.{index + 1}', self.conv_bn(f'stem.{index}', x, 2))
        x = self.conv_bn('stem.6', x, 2)
        for index, depth in enumerate(self.depths):
            if index:
                x = self.downsample(f'stages.{index}.downsample', x)
            for number in range(depth):
                x = x + self.branch(f'stages.{index}.blocks.{number}', x, self.splits[index])
        return x

    def see(self, name, x):
        self.seen[name] = x
        return x

    def conv(self, name, x, stride=1):
        weight, bias = self.p[f'{name}.weight'], self.p.get(f'{name}.bias')
        if name.endswith('wavelet_conv'):
            weight = band_weight(weight)
        groups = x.shape[1] // weight.shape[1]
        x = F.conv2d(x, weight, bias, stride, weight.shape[2] // 2, groups=groups)
        return self.see(name, x + self.deltas.get(name, 0))

    def norm(self, name, x):
        mean, var, weight, bias = (
            self.p[f'{name}.{key}'] for key in ('running_mean', 'running_var', 'weight', 'bias')
        )
        return self.see(name, F.batch_norm(x, mean, var, weight, bias))

    def relu(self, name, x):
        return self.see(name, x if name == self.without else x.clamp(min=0))

    def conv_bn(self, name, x, stride=1):
        return self.norm(f'{name}.bn', self.conv(f'{name}.conv', x, stride))

    def ffn(self, name, x):
        return self.conv_bn(f'{name}.pw2', self.relu(f'{name}.act', self.conv_bn(f'{name}.pw1', x)))

    def downsample(self, name, x):
        x = x + self.conv_bn(f'{name}.dw0.fn', x)
        x = x + self.ffn(f'{name}.ffn0.fn', x)
        x = self.merge(f'{name}.merge', x)
        x = x + self.conv_bn(f'{name}.dw1.fn', x)
        return x + self.ffn(f'{name}.ffn1.fn', x)

    def merge(self, name, x):
        x = self.relu(f'{name}.act1', self.conv_bn(f'{name}.conv1', x))
        x = self.relu(f'{name}.act2', self.conv_bn(f'{name}.conv2', x, 2))
        scale = self.relu(f'{name}.se.act', self.conv(f'{name}.se.fc1', x.mean((2, 3), keepdim=True)))
        return self.conv_bn(f'{name}.conv3', x * self.conv(f'{name}.se.fc2', scale).sigmoid())

    def branch(self, name, x, splits):
        x = x + self.conv_bn(f'{name}.dw0.fn', x)
        x = x + self.ffn(f'{name}.ffn0.fn', x)
        x = x + self.mixer(f'{name}.mixer.fn', x, splits)
        x = x + self.conv_bn(f'{name}.dw1.fn', x)
        return x + self.ffn(f'{name}.ffn1.fn', x)

    def mixer(self, name, x, splits):
        parts = list(x.split(splits, dim=1))
        parts[0] = self.global_op(f'{name}.global_op', parts[0])
        parts[1] = self.local_op(f'{name}.local_op', parts[1])
        return self.conv_bn(f'{name}.proj', self.relu(f'{name}.act', torch.cat(parts, dim=1)))

    def local_op(self, name, x):
        x = self.relu(f'{name}.act', self.norm(f'{name}.bn1', self.conv(f'{name}.dwconv', x)))
        return self.norm(f'{name}.bn2', self.conv(f'{name}.scale', x))

    def global_op(self, name, x):
        scale = self.p[f'{name}.wavelet_scale'].unflatten(1, (-1, 4)).transpose(1, 2).flatten(1, 2)
        bands = scale * self.conv(f'{name}.wavelet_conv', haar_dwt(x, 'torch'))
        return haar_idwt(bands, self.p[f'{name}.base_scale'] * self.ss2d(f'{name}.ss2d', x), 'torch')

    def ss2d(self, name, x):
        p = {key[len(name) + 1 :]: value for key, value in self.p.items() if key.startswith(f'{name}.')}
        u, z = self.conv_bn(f'{name}.in_proj', x).chunk(2, dim=1)
        u = self.see(f'{name}.act', F.silu(self.conv(f'{name}.dwconv', u)))
        u, z = u.flatten(2).mT, z.flatten(2).mT
        dt_b_c = torch.stack([u @ weight.mT for weight in p['x_proj_weight']], dim=2)
        A, D = -p['A_log'].exp().view(2, -1), p['D'].view(2, -1)
        y = selective_scan(u, dt_b_c, p['dt_proj_weight'], A, D, p['dt_proj_bias'], 'naive')
        y = F.layer_norm(y, y.shape[2:], p['out_norm.weight'], p['out_norm.bias']) * F.silu(z)
        y = self.see(f'{name}.out_norm', y)
        return self.conv_bn(f'{name}.out_proj', y.mT.unflatten(2, x.shape[2:]))


IMAGE = image_for((1, 3, 40, 48)).double()
WATCHED = (nn.Conv2d, nn.BatchNorm2d, nn.LayerNorm, nn.ReLU, nn.SiLU)


def network(**kwargs):
    """A network in float64, so that the order of summation makes no difference."""
    return small(**kwargs).double().eval().requires_grad_(False)


def replace(root, name, module):
    """Replace a module."""
    parent, _, child = name.rpartition('.')
    setattr(root.get_submodule(parent), child, module)


class Adapter(nn.Module):
    """A convolution, optionally with its norm, plus a learned adapter."""

    def __init__(self, wrapped, delta):
        super().__init__()
        self.wrapped, self.delta = wrapped, delta

    def forward(self, x):
        return self.wrapped(x) + self.delta


def test_hooks_see_what_the_name_says():
    backbone, found = network(), {}
    for name, module in backbone.named_modules():
        if isinstance(module, WATCHED):
            module.register_forward_hook(lambda _, __, out, name=name: found.update({name: out}))
    reference = Reference(backbone)
    assert relative_error(backbone(IMAGE)[0], reference(IMAGE)) < 1e-12
    assert found.keys() == reference.seen.keys()
    for name, out in found.items():
        assert relative_error(out, reference.seen[name]) < 1e-12, name


def names_of(kind):
    return [name for name, module in small().named_modules() if isinstance(module, kind)]


def test_an_adapter_comes_before_the_activation_in_every_place():
    backbone, deltas = network(), {}
    exact = Reference(backbone)(IMAGE)
    for number, name in enumerate(names_of(nn.Conv2d)):
        conv = backbone.get_submodule(name)
        deltas[name] = noise_for((1, conv.out_channels, 1, 1), number).double()
        expected = Reference(backbone, {name: deltas[name]})(IMAGE)
        assert relative_error(expected, exact) > 1e-6, name
        replace(backbone, name, Adapter(conv, deltas[name]))
        assert relative_error(backbone(IMAGE)[0], expected) < 1e-12, name
        replace(backbone, name, conv)
    expected = Reference(backbone, deltas)(IMAGE)
    for name, delta in deltas.items():
        replace(backbone, name, Adapter(backbone.get_submodule(name), delta))
    assert relative_error(backbone(IMAGE)[0], expected) < 1e-12
    backbone.switch_to_deploy()
    assert relative_error(backbone(IMAGE)[0], expected) < 1e-12


def test_an_activation_can_be_replaced():
    backbone = network()
    exact = Reference(backbone)(IMAGE)
    for name in names_of(nn.ReLU):
        activation = backbone.get_submodule(name)
        expected = Reference(backbone, without=name)(IMAGE)
        assert relative_error(expected, exact) > 1e-6, name
        replace(backbone, name, nn.Identity())
        assert relative_error(backbone(IMAGE)[0], expected) < 1e-12, name
        replace(backbone, name, activation)


@pytest.mark.parametrize(
    'name',
    [
        'stem.1',
        'stages.0.blocks.0.ffn0.fn.act',
        'stages.1.downsample.merge.act2',
        'stages.1.downsample.merge.se.act',
        'stages.0.blocks.0.mixer.fn.act',
        'stages.0.blocks.0.mixer.fn.local_op.act',
    ],
)
def test_a_replaced_activation_is_not_folded(name):
    backbone = network()
    replace(backbone, name, nn.Identity())
    expected = Reference(backbone, without=name)(IMAGE)
    backbone.switch_to_deploy()
    assert relative_error(backbone(IMAGE)[0], expected) < 1e-12


def test_any_module_can_be_a_residual_branch():
    x = noise_for((2, 4, 5, 6), 0)
    for fn in (nn.Identity(), nn.Tanh(), nn.Conv2d(4, 4, 1)):
        torch.testing.assert_close(Residual(fn)(x), x + fn(x))
    backbone = network(out_indices=0)
    for block in backbone.stages[0].blocks:
        block.mixer = Residual(nn.Identity())
    expected = backbone(IMAGE)[0]
    backbone.switch_to_deploy()
    assert relative_error(backbone(IMAGE)[0], expected) < 1e-12


@pytest.mark.parametrize('form', ['trained', 'deployed', pytest.param('compiled', marks=needs_torch('2.5'))])
def test_symbolic_trace(form):
    """Operators that read sizes and devices are one node each; the trace works for any size."""
    backbone = small(out_indices=(0, 1, 2)).eval().requires_grad_(False)
    if form == 'deployed':
        backbone.switch_to_deploy()
    if form == 'compiled':
        compile_regions(backbone, evaluation=True, backend='eager')
    traced = torch.fx.symbolic_trace(backbone)
    for size in ((2, 3, 70, 96), (1, 3, 64, 64)):
        image = image_for(size)
        for found, expected in zip(traced(image), backbone(image)):
            assert relative_error(found, expected) < 1e-6
    names = {node.target.__name__ for node in traced.graph.nodes if node.op == 'call_function'}
    assert {'conv2d', 'haar_dwt', 'haar_idwt', 'norm_gate', 'selective_scan'} <= names


def test_feature_extractor():
    """torchvision's feature extractor returns the outputs of the modules with these names."""
    extraction = pytest.importorskip('torchvision.models.feature_extraction')
    backbone = network()
    names = [
        'stem.0.bn',
        'stem.1',
        'stages.1.downsample.merge.conv1.bn',
        'stages.2.blocks.0.mixer.fn.proj.bn',
    ]
    found = extraction.create_feature_extractor(backbone, names)(IMAGE)
    reference = Reference(backbone)
    reference(IMAGE)
    for name in names:
        assert relative_error(found[name], reference.seen[name]) < 1e-12, name


def test_folding_changes_no_source():
    """The source of a folded part is not modified."""
    wte = network().stages[0].blocks[0].mixer.fn.global_op
    for name in ('in_proj', 'out_proj'):
        setattr(wte.ss2d, name, getattr(wte.ss2d, name).folded())
    x = noise_for((2, SMALL['embed_dims'][0] // 2, 6, 7), 0).double()
    before, expected = copy.deepcopy(wte.state_dict()), wte(x)
    folded = wte.folded()
    assert relative_error(folded(x), expected) < 1e-12
    assert folded.ss2d is not wte.ss2d and torch.equal(wte(x), expected)
    assert all(torch.equal(value, before[key]) for key, value in wte.state_dict().items())
