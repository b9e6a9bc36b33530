"""Packed convolutions: equal to the source network, which is not modified."""

import copy
import pickle

import pytest
import torch
from torch import nn

from mmmobilemamba import MobileMamba
from mmmobilemamba.models import prepare_for_cpu
from mmmobilemamba.models.layers import Conv2d, FusedConv2d
from mmmobilemamba.models.prepare_for_cpu import CALLS, PackedConv2d, RememberingConv2d
from mmmobilemamba.ops import cpu

from ..conftest import authors_checkpoint, golden, image_for, relative_error
from ..helpers import SMALL, needs_torch, randomise, small

packs = torch.backends.mkldnn.is_available()
pytestmark = pytest.mark.skipif(not packs, reason='this PyTorch comes without oneDNN')


@torch.no_grad()
def test_authors_features():
    backbone = MobileMamba('b1', out_indices=(0, 1, 2)).train()
    backbone.load_state_dict(authors_checkpoint('b1'))
    before = copy.deepcopy(backbone.state_dict())
    image = image_for((1, 3, 160, 224))
    prepared = prepare_for_cpu(backbone, image)
    for index, feature in enumerate(prepared(image), start=1):
        assert relative_error(feature, golden('b1')[f'feat{index}']) < 1e-5
    assert not [m for m in prepared.modules() if isinstance(m, nn.BatchNorm2d)]
    convs = [m for m in prepared.modules() if isinstance(m, nn.Conv2d)]
    assert all(isinstance(conv, Conv2d) and conv.laid_out for conv in convs)
    assert bool(convs) == cpu.has_vectors()
    stem = RememberingConv2d if cpu.has_vectors() else PackedConv2d
    assert [type(layer) for layer in prepared.stem] == [stem, nn.Identity] * 3 + [stem]
    calls = [len(m.calls) for m in prepared.modules() if isinstance(m, RememberingConv2d)]
    assert len(calls) == len(convs) and all(count == 1 for count in calls)
    assert backbone.training and not backbone.deploy and not prepared.training
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


@torch.no_grad()
@pytest.mark.parametrize('size', [(1, 3, 64, 64), (3, 3, 65, 98)])
def test_other_sizes(size):
    backbone = randomise(MobileMamba('t2'))
    prepared = prepare_for_cpu(backbone, torch.rand(1, 3, 96, 128))
    image = image_for(size)
    assert relative_error(prepared(image)[0], backbone(image)[0]) < 1e-5


def test_any_network():
    """Convolutions with a padding name or a padding mode other than zeros stay PyTorch's."""
    layers = [
        nn.Conv2d(3, 8, 3, stride=2, padding=1, dilation=2),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding='same'),
    ]
    network = nn.Sequential(*layers, nn.Conv2d(8, 8, 3, padding=1, padding_mode='circular')).eval()
    image = torch.rand(2, 3, 15, 16)
    prepared = prepare_for_cpu(network, image)
    assert [type(layer) for layer in prepared] == [PackedConv2d, nn.ReLU, nn.Conv2d, nn.Conv2d]
    with torch.no_grad():
        assert relative_error(prepared(image), network(image)) < 1e-5


@pytest.mark.parametrize('wrong', ['network', 'image'])
def test_types(wrong):
    network, image = nn.Conv2d(3, 8, 1), torch.rand(1, 3, 8, 8)
    if wrong == 'network':
        network = network.double()
    else:
        image = image.double()
    with pytest.raises(ValueError, match=r'must be float32 on the CPU, not torch.float64 on cpu'):
        prepare_for_cpu(network, image)


def test_no_onednn(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, 'is_available', lambda: False)
    with pytest.raises(RuntimeError, match='has no packed convolutions of oneDNN'):
        prepare_for_cpu(nn.Conv2d(3, 8, 1), torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize('kind', [nn.Conv2d, Conv2d])
def test_what_the_copy_cannot(kind):
    """Both for packed convolutions and for those with cached calls."""
    network, image = nn.Sequential(kind(4, 16, 1), nn.ReLU()), torch.rand(1, 4, 8, 8)
    image = image.contiguous(memory_format=torch.channels_last)
    prepared = prepare_for_cpu(network, image)
    remembers = kind is Conv2d and cpu.has_vectors()
    assert type(prepared[0]) is (RememberingConv2d if remembers else PackedConv2d)
    assert not prepared(image).requires_grad and network(image).requires_grad
    for change in (prepared.half, prepared.double, lambda: prepared.to('meta')):
        with pytest.raises(RuntimeError, match=r'cannot be moved or converted. Do that with the network'):
            change()
    with pytest.raises(RuntimeError, match=r'cannot be saved or loaded into\. Do that with the network'):
        prepared.state_dict()
    with pytest.raises(RuntimeError, match=r'cannot be saved or loaded into\. Do that with the network'):
        prepared.load_state_dict(network.state_dict(), strict=False)


@needs_torch('2.8')  # older versions raise torch's own message
def test_packed_weights_stay_in_their_process():
    """torch's message would be "Cannot access storage of OpaqueTensorImpl"."""
    backbone, image = small(scan_backend='torch').eval(), torch.rand(1, 3, 64, 64)
    prepared = prepare_for_cpu(backbone, image)
    with pytest.raises(RuntimeError, match=r'cannot be saved or loaded into\. Do that with the network'):
        prepared.load_state_dict(backbone.state_dict())
    for copying in (copy.deepcopy, pickle.dumps, lambda network: prepare_for_cpu(network, image)):
        with pytest.raises(RuntimeError, match=r'packed weights cannot be copied or saved\. Do that'):
            copying(prepared)
    for record in (
        lambda: torch.jit.trace(prepared, image),
        lambda: torch.export.export(prepared, (image,)),
        lambda: torch.fx.symbolic_trace(prepared),
    ):
        with pytest.raises(RuntimeError, match=r'packed weights cannot be traced or exported\. Do'):
            record()


def test_a_convolution_is_a_network():
    conv, image = nn.Conv2d(3, 8, 3), torch.rand(1, 3, 8, 8)
    prepared = prepare_for_cpu(conv, image)
    assert type(prepared) is PackedConv2d
    assert relative_error(prepared(image), conv(image).detach()) < 1e-6
    with pytest.raises(ValueError, match=r'must be \(N, C, H, W\), but has shape \(3, 8, 8\)'):
        prepare_for_cpu(conv, image[0])


@torch.no_grad()
def test_all_is_packed_where_the_kernels_are_not_wanted():
    backbone = randomise(MobileMamba('t2', scan_backend='torch'))
    image = image_for((1, 3, 64, 64))
    prepared = prepare_for_cpu(backbone, image)
    assert not [m for m in prepared.modules() if isinstance(m, nn.Conv2d)]
    assert relative_error(prepared(image)[0], backbone(image)[0]) < 1e-5


needs_kernels = pytest.mark.skipif(not cpu.has_vectors(), reason='no kernels with vectors here')


def remembering(channels=16, kernel_size=1, activation=None, adds_shortcut=False, **kwargs):
    """A convolution with cached calls, and PyTorch's with the same weights."""
    follows = dict(activation=activation, adds_shortcut=adds_shortcut)
    conv = FusedConv2d(channels, channels, kernel_size, **follows, **kwargs).requires_grad_(False)
    plain = nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2, **kwargs)
    plain.load_state_dict(conv.state_dict())
    return RememberingConv2d(conv), plain


@needs_kernels
@torch.no_grad()
@pytest.mark.parametrize('activation', [None, 'relu'])
@pytest.mark.parametrize('adds_shortcut', [True, False])
def test_remembered_calls(activation, adds_shortcut):
    """One cached call for each shape and layout; images and shortcuts differ each time."""
    prepared, plain = remembering(activation=activation, adds_shortcut=adds_shortcut)
    for size in ((1, 16, 4, 6), (2, 16, 5, 3)):
        for _ in range(3):
            wide = torch.randn(size[0], 32, *size[2:]).contiguous(memory_format=torch.channels_last)
            x, shortcut = (torch.randn(size).contiguous(memory_format=torch.channels_last) for _ in range(2))
            for image in (x, wide[:, 16:]):
                expected = plain(image).relu() if activation else plain(image)
                if adds_shortcut:
                    assert relative_error(prepared(image, shortcut), expected + shortcut) < 1e-6
                else:
                    assert relative_error(prepared(image), expected) < 1e-6
    assert len(prepared.calls) == 2 * 2
    if adds_shortcut:
        with pytest.raises(ValueError, match='shortcut must have the shape'):
            prepared(x, shortcut[:, :, 1:])


@needs_kernels
@torch.no_grad()
def test_depthwise_without_bias():
    prepared, plain = remembering(kernel_size=3, stride=2, groups=16, bias=False, activation='silu')
    for _ in range(2):
        x = torch.randn(2, 16, 7, 6).contiguous(memory_format=torch.channels_last)
        assert relative_error(prepared(x), nn.functional.silu(plain(x))) < 1e-6
    assert len(prepared.calls) == 1


@needs_kernels
@torch.no_grad()
def test_what_is_not_remembered():
    """Maps of another memory format or dtype, and calls under autocast, even for cached shapes."""
    prepared, plain = remembering(activation='relu', adds_shortcut=True)
    x = torch.randn(2, 16, 4, 6).contiguous(memory_format=torch.channels_last)
    prepared(x, x)
    assert len(prepared.calls) == 1
    nchw = x.contiguous()
    assert relative_error(prepared(nchw, nchw), plain(x).relu() + x) < 1e-6
    with torch.autocast('cpu', torch.bfloat16):
        assert prepared(x, x.bfloat16()).dtype == plain(x).dtype == torch.bfloat16
    with pytest.raises(RuntimeError, match='double'):
        prepared(x.double(), x)
    assert prepared(x, x.double()).dtype == torch.float64
    assert len(prepared.calls) == 1


@torch.no_grad()
def test_packed_with_what_follows():
    conv = FusedConv2d(3, 8, activation='relu', adds_shortcut=True)
    x, shortcut = torch.rand(1, 3, 6, 5), torch.rand(1, 8, 6, 5)
    packed = PackedConv2d(conv, x.shape)
    assert relative_error(packed(x, shortcut), conv(x, shortcut)) < 1e-6


@needs_kernels
def test_gradients_of_the_map_and_the_shortcut():
    prepared, _ = remembering(adds_shortcut=True)
    x = torch.randn(2, 16, 4, 6).contiguous(memory_format=torch.channels_last)
    prepared(x, x)
    for name in ('x', 'shortcut'):
        inputs = dict(x=x.clone(), shortcut=x.clone())
        inputs[name].requires_grad_()
        prepared(*inputs.values()).sum().backward()
        assert inputs[name].grad.abs().max() > 0


@needs_kernels
@torch.no_grad()
def test_it_forgets_in_time():
    prepared, plain = remembering()
    for side in range(1, CALLS + 6):
        x = torch.randn(1, 16, side, 2).contiguous(memory_format=torch.channels_last)
        assert relative_error(prepared(x), plain(x)) < 1e-6
        assert len(prepared.calls) <= CALLS
    assert len(prepared.calls) == 5


@needs_kernels
@torch.no_grad()
def test_hooks_stay():
    network, calls = nn.Sequential(Conv2d(16, 16)), []
    network[0].register_forward_hook(lambda *_: calls.append(1))
    image = torch.rand(1, 16, 4, 4).contiguous(memory_format=torch.channels_last)
    prepared = prepare_for_cpu(network, image)
    calls.clear()
    prepared(image)
    assert len(calls) == 1


@needs_kernels
@torch.no_grad()
@pytest.mark.parametrize('tool', ['trace', 'export', 'fx', 'pickle'])
def test_tools_of_pytorch(tool):
    """They support networks whose convolutions cache their calls."""
    network = nn.Sequential(FusedConv2d(16, 32, activation='silu'), Conv2d(32, 16)).eval()
    image = torch.rand(1, 16, 12, 10).contiguous(memory_format=torch.channels_last)
    prepared = prepare_for_cpu(network, image)
    assert [type(layer) for layer in prepared] == [RememberingConv2d] * 2
    tools = dict(
        trace=lambda: torch.jit.trace(prepared, image),
        export=lambda: torch.export.export(prepared, (image,)).module(),
        fx=lambda: torch.fx.symbolic_trace(prepared),
        pickle=lambda: pickle.loads(pickle.dumps(prepared)),
    )
    assert relative_error(tools[tool]()(image), network(image)) < 1e-5


@needs_kernels
@torch.no_grad()
def test_export_of_a_backbone():
    """Its Haar transform reads the weight of a convolution."""
    backbone = randomise(MobileMamba(dict(SMALL, embed_dims=(128, 144, 160))))
    x = image_for((1, 128, 6, 6)).contiguous(memory_format=torch.channels_last)
    prepared = prepare_for_cpu(backbone.stages[0].blocks[0].mixer, x)
    exported = torch.export.export(prepared, (x,)).module()
    assert relative_error(exported(x), prepared(x)) < 1e-5


@needs_kernels
@torch.no_grad()
def test_a_copy_forgets():
    """Cached calls contain the addresses of the weights."""
    prepared, plain = remembering()
    x = torch.randn(1, 16, 4, 6).contiguous(memory_format=torch.channels_last)
    prepared(x)
    copied = copy.deepcopy(prepared)
    copied.conv.weight.mul_(2)
    assert len(prepared.calls) == 1 and not copied.calls
    assert relative_error(prepared(x), plain(x)) < 1e-6
    assert relative_error(copied(x), 2 * plain(x) - plain.bias[:, None, None]) < 1e-6
