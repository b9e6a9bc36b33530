"""``create_model``: results equal to the recipes' classifiers, weights by name, and errors."""

import io
import re

import numpy as np
import pytest
import torch
from mmengine.runner import load_checkpoint

pytest.importorskip('mmpretrain')

import mmmobilemamba.models.plain_classifier as plain_classifier
from mmmobilemamba import MobileMamba, create_model
from mmmobilemamba.models import prepare_for_cpu
from mmmobilemamba.models.checkpoint import CheckpointError

from ..conftest import authors_checkpoint, golden, image_for, relative_error
from ..helpers import SMALL, needs_export, randomise
from ..test_recipes.recipes import CLASSIFIERS, DISTILLED, build, load

LINEAR = 'head.head.linear.weight'


@pytest.fixture(autouse=True)
def weights(authors_weights):
    """Files of T2 and B1 in the authors' layout, in the folder where names are looked up."""
    return authors_weights


def recipe(arch, num_classes=1000):
    config = load(arch)
    config.model.head.num_classes = num_classes
    return build(config, 'cpu').eval()


def image(size=96, channels=3, batch=2):
    return torch.rand(batch, channels, size, size)


@torch.no_grad()
@pytest.mark.parametrize(('arch', 'shape'), [('t2', (2, 3, 192, 192)), ('b1', (1, 3, 256, 256))])
def test_logits_are_those_of_the_recipe(weights, arch, shape):
    classifier = recipe(arch)
    load_checkpoint(classifier, str(weights / f'mobilemamba_{arch}.pth'), strict=True)
    logits = create_model(arch, pretrained=True).eval()(image_for(shape))
    assert (logits - classifier(image_for(shape), mode='tensor')).abs().max() < 1e-6
    assert relative_error(logits, golden(arch)['logits']) < 1e-6


@pytest.mark.parametrize('name', [*CLASSIFIERS, *DISTILLED])
def test_parameters_are_those_of_the_recipe(name):
    with torch.device('meta'):
        ours = create_model(name.rstrip('s')).state_dict()
    theirs = build(load(name)).state_dict()
    assert {key: value.shape for key, value in ours.items()} == {k: v.shape for k, v in theirs.items()}


@torch.no_grad()
def test_checkpoints_of_the_recipes_go_both_ways(tmp_path):
    theirs = randomise(recipe('t2', num_classes=7))
    torch.save(dict(meta={}, state_dict=theirs.state_dict()), tmp_path / 'epoch_1.pth')
    ours = create_model('t2', tmp_path / 'epoch_1.pth', num_classes=7).eval()
    x = image()
    assert (ours(x) - theirs(x, mode='tensor')).abs().max() < 1e-6
    torch.save(randomise(create_model('t2', num_classes=7)).state_dict(), tmp_path / 'ours.pth')
    other = recipe('t2', num_classes=7)
    load_checkpoint(other, str(tmp_path / 'ours.pth'), strict=True)
    ours.load_state_dict(torch.load(tmp_path / 'ours.pth', weights_only=True))
    assert (ours(x) - other(x, mode='tensor')).abs().max() < 1e-6


def zeros(checkpoint):
    return {key: torch.zeros_like(value) for key, value in checkpoint.items()}


@torch.no_grad()
@pytest.mark.parametrize('pretrained', [True, 't2', 'mobilemamba://t2', str, 'path', 'average'])
def test_ways_to_name_weights(weights, tmp_path, pretrained):
    path = weights / 'mobilemamba_t2.pth'
    if pretrained == 'average':
        path, flat = tmp_path / 'average.pth', authors_checkpoint('t2')
        torch.save(dict(net=zeros(flat), net_E={f'module.{k}': v for k, v in flat.items()}), path)
    pretrained = {str: str(path), 'path': path, 'average': path}.get(pretrained, pretrained)
    logits = create_model('T2', pretrained).eval()(image_for((2, 3, 192, 192)))
    assert relative_error(logits, golden('t2')['logits']) < 1e-6


def test_no_weights_are_the_paper_s_initialisation():
    classifier = create_model('t2')
    linear = classifier.get_classifier().head.linear
    assert linear.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert not linear.bias.any()
    assert classifier.backbone.stages[0].blocks[0].dw0.fn.bn.weight.abs().max() == 0


def test_another_number_of_classes(monkeypatch):
    """The linear layer is initialised as for training from scratch; the rest is loaded; the log says so."""
    lines = []
    monkeypatch.setattr(plain_classifier, 'print_log', lambda line, logger: lines.append(line))
    full, few = create_model('t2', True).state_dict(), create_model('t2', True, num_classes=10).state_dict()
    assert len(lines) == 1 and 'another number of classes than 10: the linear layer' in lines[0]
    assert few[LINEAR].shape == (10, 368) and not few['head.head.linear.bias'].any()
    assert few[LINEAR].std().item() == pytest.approx(0.02, rel=0.1)
    assert full.keys() == few.keys()
    same = [key for key in full if full[key].shape == few[key].shape and torch.equal(full[key], few[key])]
    assert set(full) - set(same) == {LINEAR, 'head.head.linear.bias'}


@torch.no_grad()
def test_features():
    x = image(128)
    pooled = create_model('t2', True, num_classes=0).eval()
    backbone = create_model('t2', True, features_only=True).eval()
    assert type(backbone) is MobileMamba
    maps = backbone(x)
    assert [tuple(out.shape[1:]) for out in maps] == [(144, 8, 8), (272, 4, 4), (368, 2, 2)]
    assert torch.allclose(pooled(x), maps[-1].mean((2, 3)), atol=1e-5)
    (second,) = create_model('t2', True, features_only=True, out_indices=-2).eval()(x)
    assert torch.equal(second, maps[1])
    classifier = create_model('t2', True).eval()
    assert torch.equal(classifier.forward_features(x), maps[-1])
    assert torch.equal(classifier.forward_head(maps[-1], pre_logits=True), pooled(x))


@torch.no_grad()
def test_in_chans():
    gray = image(channels=1)
    expected = create_model('t2', True).eval()(gray.expand(-1, 3, -1, -1))
    for channels in (1, 5):
        found = create_model('t2', True, in_chans=channels).eval()(gray.expand(-1, channels, -1, -1))
        assert relative_error(found, expected) < 1e-4, channels
    assert create_model('t2', in_chans=4, features_only=True)(image(channels=4))[0].shape[1] == 144


def test_arguments_reach_the_network():
    classifier = create_model('t2', drop_rate=0.3, drop_path_rate=0.2, with_cp=True, norm_eval=True)
    assert classifier.head.head.drop.p == 0.3
    assert classifier.backbone.arch['drop_path_rate'] == 0.2 and classifier.backbone.norm_eval
    assert all(stage.with_cp for stage in classifier.backbone.stages)
    assert create_model(SMALL, num_classes=3).eval()(image()).shape == (2, 3)


REFUSED = dict(
    arch=(dict(pretrained='b1-kd'), ValueError, "'b1-kd' are of a MobileMamba B1, not of arch='t2'"),
    close=(dict(pretrained='t2kd'), ValueError, "no published weights named 't2kd'; 't2-kd' is close"),
    scheme=(dict(pretrained='mobilemamba://x'), ValueError, "no published weights named 'x'"),
    detector=(dict(arch='b1', pretrained='retinanet-b1'), ValueError, 'are of detection and have no head'),
    no_file=(dict(pretrained='nothing.pth'), FileNotFoundError, 'no checkpoint file nothing.pth'),
    own_arch=(dict(arch=SMALL, pretrained=True), ValueError, 'An arch of your own has no published weights'),
    stages=(dict(out_indices=(0, 1)), ValueError, 'features_only=True'),
    classes=(dict(num_classes=-1), ValueError, 'num_classes must be a whole number from 0'),
    arch_with_teacher=(dict(arch='b1-kd'), ValueError, "create_model('b1', pretrained='b1-kd')"),
    empty=(dict(pretrained=''), ValueError, "must be True, False, a name or the path of a file, not ''"),
    number=(dict(pretrained=1), ValueError, 'must be True, False, a name or the path of a file, not 1'),
    init_cfg=(dict(init_cfg={}), TypeError, 'takes pretrained instead of init_cfg'),
    features=(dict(init_cfg={}, features_only=True), TypeError, 'takes pretrained instead of init_cfg'),
    twice=(dict(in_channels=1), TypeError, 'takes in_chans instead of in_channels'),
    adapted=(dict(adapt_in_channels=True), TypeError, 'takes in_chans instead of adapt_in_channels'),
    no_head=(dict(features_only=True, drop_rate=0.1), ValueError, 'drop_rate applies to the head'),
    unknown_too=(dict(colour=1), TypeError, 'colour'),
)


@pytest.mark.parametrize('name', sorted(REFUSED))
def test_refused(name):
    kwargs, error, message = REFUSED[name]
    with pytest.raises(error, match=re.escape(message)):
        create_model(**{'arch': 't2', **kwargs})


def ours(arch):
    """The state dict of a classifier's backbone in our layout."""
    return {f'backbone.{key}': value for key, value in MobileMamba(arch).state_dict().items()}


BROKEN = dict(
    other_arch=(lambda flat: authors_checkpoint('t4'), 'looks like a MobileMamba T4'),
    headless=(
        lambda flat: {k: v for k, v in flat.items() if not k.startswith('head.')},
        'no head of a classifier',
    ),
    half_a_head=(
        lambda flat: {k: v for k, v in flat.items() if k != 'head.bn.weight'},
        "differs in ['head.head.bn.weight']",
    ),
    narrow_head=(
        lambda flat: {**flat, 'head.l.weight': torch.zeros(1000, 5)},
        "differs in ['head.head.linear.weight']",
    ),
    other_head=(
        lambda flat: {**ours('t2'), 'head.fc.weight': torch.zeros(1000, 368)},
        'Its head is not that of a MobileMamba',
    ),
)


@pytest.mark.parametrize('name', sorted(BROKEN))
def test_files_that_do_not_fit(tmp_path, name):
    change, message = BROKEN[name]
    path = tmp_path / 'broken.pth'
    torch.save(change(authors_checkpoint('t2')), path)
    with pytest.raises(CheckpointError, match=re.escape(message)) as caught:
        create_model('t2', path)
    assert str(path) in str(caught.value)
    if name != 'other_arch':  # the backbone matches
        create_model('t2', path, num_classes=0)


def test_load_state_dict_takes_the_authors_file(weights):
    classifier = create_model('t2')
    classifier.load_state_dict(authors_checkpoint('t2'))
    expected = create_model('t2', True).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in classifier.state_dict().items())
    with pytest.raises(RuntimeError, match=r'size mismatch for head\.head\.linear'):
        create_model('t2', num_classes=10).load_state_dict(authors_checkpoint('t2'))


def test_reset_classifier():
    classifier = randomise(create_model('t2', num_classes=5)).double()
    norm = classifier.head.head.bn
    classifier.reset_classifier(3)
    assert classifier.head.head.bn is norm  # has the statistics of the features
    head = classifier.get_classifier()
    assert all(parameter.dtype == torch.float64 for parameter in head.parameters())
    assert not any(module.training for module in head.modules())
    assert classifier(image().double()).shape == (2, 3)
    classifier.reset_classifier(0)
    assert classifier(image().double()).shape == (2, 368)
    classifier.train().reset_classifier(4)
    assert all(module.training for module in classifier.head.modules())
    assert classifier(image().double()).shape == (2, 4)


@torch.no_grad()
def test_deploy(tmp_path):
    x = image(64)
    classifier = create_model('t2', True).eval()
    expected = classifier(x)
    classifier.switch_to_deploy()
    classifier.switch_to_deploy()
    assert classifier.backbone.is_deployed and isinstance(classifier.head.head, torch.nn.Linear)
    assert relative_error(classifier(x), expected) < 1e-5
    torch.save(classifier.state_dict(), tmp_path / 'deployed.pth')
    loaded = create_model('t2', tmp_path / 'deployed.pth', deploy=True).eval()
    assert torch.equal(loaded(x), classifier(x))
    with pytest.raises(CheckpointError, match='deployed form, which cannot be undone'):
        create_model('t2', tmp_path / 'deployed.pth')
    with pytest.raises(CheckpointError, match='built with deploy=True, but this checkpoint is not'):
        create_model('t2', True, deploy=True)


@torch.no_grad()
def test_prepare_for_cpu():
    x = image(64)
    classifier = create_model('t2', True).eval()
    assert relative_error(prepare_for_cpu(classifier, x)(x), classifier(x)) < 1e-5


@torch.no_grad()
@needs_export
def test_trace_and_onnx():
    onnxruntime = pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    classifier, x = randomise(create_model(SMALL, num_classes=7)), image(64)
    expected = classifier(x)
    traced = torch.jit.trace(classifier, x)
    assert relative_error(traced(x), expected) < 1e-5
    with pytest.raises(TypeError, match=r'cannot be scripted\. Call torch\.jit\.trace'):
        torch.jit.script(classifier)
    file = io.BytesIO()
    torch.onnx.export(classifier, (x,), dynamo=True).save(file)
    session = onnxruntime.InferenceSession(file.getvalue())
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert found.dtype == np.float32 and relative_error(found, expected) < 1e-4
