"""Networks by name: their preprocessing, stages and weights, and errors for wrong names."""

from argparse import ArgumentTypeError

import pytest
import torch
from torch import nn

from mmmobilemamba import MobileMamba
from mmmobilemamba.analysis import AnalysisError, effective_receptive_fields
from mmmobilemamba.analysis.networks import Network, Source, build_network, source_argument
from mmmobilemamba.models.checkpoint import CheckpointError

from ..conftest import authors_checkpoint, relative_error
from ..helpers import SMALL

TIMM = 'timm/mobilenetv3_small_050'
CONFIG = f"""
default_scope = 'mmpretrain'
custom_imports = dict(imports=['mmmobilemamba.mmpretrain'])
data_preprocessor = dict(mean=[10, 20, 30], std=[40, 50, 60], to_rgb=False)
head = dict(type='MobileMambaClsHead', num_classes=3, in_channels=64)
backbone = dict(type='MobileMamba', arch={SMALL}, out_indices=(2, ))
model = dict(type='ImageClassifier', backbone=backbone, head=head)
"""


@pytest.fixture(scope='module')
def images():
    return torch.rand(2, 3, 96, 128, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def config(tmp_path):
    """A config of a small classifier with BGR channels, and a checkpoint of its backbone."""
    pytest.importorskip('mmpretrain')
    path = tmp_path / 'classifier.py'
    path.write_text(CONFIG)
    network = build_network(Source(str(path)), {}, seed=1)
    state_dict = {f'backbone.{key}': value for key, value in network.backbone.state_dict().items()}
    head = dict(bn=nn.BatchNorm1d(64), linear=nn.Linear(64, 3))
    for name, part in head.items():
        state_dict.update({f'head.head.{name}.{key}': value for key, value in part.state_dict().items()})
    return path, state_dict


@torch.no_grad()
def test_a_config_has_its_own_preprocessing_and_stages(config, images):
    network = build_network(Source(str(config[0])))
    bgr = images.flip(1) * 255
    expected = (bgr - torch.tensor([10.0, 20, 30]).view(3, 1, 1)) / torch.tensor([40.0, 50, 60]).view(3, 1, 1)
    assert relative_error(network.normalise(images), expected) < 1e-6
    maps = network.backbone.extract(expected, (0, 1, 2))
    for stage in range(-3, 3):
        assert relative_error(network(images, stage), maps[stage]) < 1e-5
    assert not network.training and not any(each.requires_grad for each in network.parameters())
    with pytest.raises(
        AnalysisError, match=r'no stage 3: the backbone returns 3, 0 to 2\. For backbones other'
    ):
        network(images, 3)


def test_options_change_the_config(config):
    options = {'data_preprocessor.to_rgb': True, 'model.backbone.out_indices': (1,)}
    network = build_network(Source(str(config[0])), options)
    assert not network.bgr and len(network.backbone.stages) == 2


def test_weights_are_random_by_the_seed(config):
    networks = [build_network(Source(str(config[0])), seed=seed) for seed in (0, 0, 1)]
    first, again, other = (network.backbone.stem[0].conv.weight for network in networks)
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize('form', ['plain', 'deployed'])
@torch.no_grad()
def test_a_checkpoint_of_a_config(config, images, tmp_path, form):
    path, state_dict = config
    network = build_network(Source(str(path)), seed=1)
    expected = network(images)
    if form == 'deployed':
        from mmengine.config import Config

        from mmmobilemamba.deployment.build import build_untrained
        from mmmobilemamba.models import deploy

        model = build_untrained(Config.fromfile(path)).eval()
        model.load_state_dict(state_dict)
        deploy(model)
        state_dict = model.state_dict()
    torch.save(dict(state_dict=state_dict), tmp_path / 'classifier.pth')
    loaded = build_network(Source(str(path), tmp_path / 'classifier.pth'))
    assert relative_error(loaded(images), expected) < 1e-4


def test_a_checkpoint_of_another_network(config, tmp_path):
    other, path = MobileMamba(dict(SMALL, embed_dims=(48, 64, 80))), tmp_path / 'other.pth'
    torch.save({f'backbone.{key}': value for key, value in other.state_dict().items()}, path)
    for name in (str(config[0]), 't2'):
        with pytest.raises(CheckpointError, match='does not fit this MobileMamba of widths'):
            build_network(Source(name, path))
    with pytest.raises(FileNotFoundError, match=r'no checkpoint file nothing\.pth'):
        build_network(Source('t2', 'nothing.pth'))


@torch.no_grad()
def test_weights_of_the_family_by_name(images, tmp_path, monkeypatch):
    checkpoint = authors_checkpoint('t2')
    torch.save(checkpoint, tmp_path / 'mobilemamba_t2.pth')
    monkeypatch.setenv('MMMOBILEMAMBA_WEIGHTS', str(tmp_path))
    network = build_network(source_argument('t2=mobilemamba://t2'))
    assert torch.equal(network.backbone.stem[0].conv.weight, checkpoint['patch_embed.0.c.weight'])
    mean = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
    std = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)
    assert relative_error(network.normalise(images), (255 * images - mean) / std) < 1e-5


def test_timm(images, tmp_path):
    timm = pytest.importorskip('timm')
    model = timm.create_model(TIMM.removeprefix('timm/')).eval()
    torch.save(model.state_dict(), tmp_path / 'timm.pth')
    network = build_network(Source(TIMM, tmp_path / 'timm.pth'))
    mean, std = (torch.tensor(model.pretrained_cfg[key]).view(3, 1, 1) for key in ('mean', 'std'))
    with torch.no_grad():
        (expected,) = model.forward_intermediates((images - mean) / std, indices=1, intermediates_only=True)
        assert relative_error(network(images, -1), expected) < 1e-5
    first, second = (lambda x, stage=stage: network(x, stage) for stage in (0, 1))
    fields = effective_receptive_fields({0: first, 1: second}, [images])
    assert (fields[0] > 0).sum() < (fields[1] > 0).sum()
    torch.save(timm.create_model('mobilenetv3_small_075').state_dict(), tmp_path / 'other.pth')
    with pytest.raises(CheckpointError, match=f'other.pth does not fit {TIMM}: .*size mismatch'):
        build_network(Source(TIMM, tmp_path / 'other.pth'))


def test_a_network_of_mmpretrain(images):
    pytest.importorskip('mmpretrain')
    source = source_argument('mmpretrain::resnet/resnet18_8xb32_in1k.py')
    network = build_network(source, {'model.backbone.base_channels': 8, 'model.backbone.stem_channels': 8})
    assert not network.bgr and network(images).shape == (2, 64, 3, 4)
    with pytest.raises(AnalysisError, match=r'no stage 1: the backbone returns 1, .*out_indices=\(0,1,2,3\)'):
        network(images, 1)


def test_a_backbone_that_cannot_take_the_image():
    class Halves(nn.Module):
        def forward(self, x):
            if x.shape[3] % 64:
                raise ValueError('sides must be multiples of 64.')
            return (x,)

    network = Network(Halves())
    assert network(torch.rand(1, 3, 64, 64)).shape == (1, 3, 64, 64)
    words = r'Halves cannot take images of 64 x 96: sides must be multiples of 64\. Give another size\.'
    with pytest.raises(AnalysisError, match=words):
        network(torch.rand(1, 3, 64, 96))


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('b9', 'no config file b9 here'),
        ('b1=', 'b1= names no checkpoint: write b1 alone for random weights'),
        ('mobilemamba-b1_8xb128_in1', "no recipe .*'mobilemamba-b1_8xb128_in1k' is close"),
        ('b1=mobilemamba://b9', "no published weights named 'b9'"),
        ('timm/resnet5', "timm has no network 'resnet5'; 'resnet50' is close"),
        (
            'mmpretrain::resnet/none.py',
            'no config resnet/none.py in mmpretrain; its configs are in .*configs',
        ),
        ('mmnothing::a.py', 'no package mmnothing here'),
    ],
)
def test_names_of_nothing(text, words):
    with pytest.raises(ArgumentTypeError, match=words):
        source_argument(text)


def test_names():
    assert source_argument('b1') == ('b1', None)
    assert source_argument('b1=mobilemamba://b1-kd') == ('b1', 'mobilemamba://b1-kd')
    assert source_argument('timm/resnet50=pretrained') == ('timm/resnet50', 'pretrained')
    recipe = source_argument('mobilemamba-b1_8xb128_in1k=a=b.pth')
    assert recipe.name.endswith('configs/mobilemamba/mobilemamba-b1_8xb128_in1k.py')
    assert recipe.label == 'mobilemamba-b1_8xb128_in1k, trained' and str(recipe.checkpoint) == 'a=b.pth'
    assert Source('timm/resnet50').label == 'timm/resnet50, random weights'


def test_a_config_without_a_backbone(tmp_path):
    pytest.importorskip('mmpretrain')
    path = tmp_path / 'config.py'
    path.write_text("default_scope = 'mmpretrain'\n")
    with pytest.raises(AnalysisError, match=r'config\.py has no model'):
        build_network(Source(str(path)))
    path.write_text("default_scope = 'mmpretrain'\nmodel = dict(type='mmengine.ModelWithout')\n")
    with pytest.raises(AnalysisError, match=r'The model of .*config\.py cannot be built: .*ModelWithout'):
        build_network(Source(str(path)))
