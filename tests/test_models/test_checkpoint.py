"""The authors' checkpoints: every way to load them, and every error."""

import io
import pickle
import re
import types
from collections import OrderedDict

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint, load_state_dict

from mmmobilemamba import MobileMamba
from mmmobilemamba.models.checkpoint import CheckpointError, describe, read_checkpoint

from ..conftest import authors_checkpoint, golden, image_for, load_script, relative_error
from ..helpers import SMALL, small

converter = load_script('tools/model_converters/mobilemamba_to_mm.py')


@pytest.fixture(scope='module')
def flat():
    return authors_checkpoint('t2')


def other_weights(checkpoint):
    return {key: torch.zeros_like(value) for key, value in checkpoint.items()}


WRAPPED = dict(
    flat=lambda sd: sd,
    state_dict=lambda sd: dict(state_dict=sd, epoch=3),
    model=lambda sd: dict(model=sd, optimizer=dict(state={})),
    net=lambda sd: dict(net=sd),
    ema=lambda sd: dict(net=other_weights(sd), net_E=sd, epoch=300),
    module=lambda sd: {f'module.{key}': value for key, value in sd.items()},
    ema_module=lambda sd: dict(net_E=OrderedDict((f'module.{key}', value) for key, value in sd.items())),
    compiled=lambda sd: {f'_orig_mod.{key}': value for key, value in sd.items()},
    compiled_inside=lambda sd: dict(
        state_dict={f'module.backbone._orig_mod.{key}': value for key, value in sd.items()}
    ),
    downstream=lambda sd: dict(
        state_dict={f'backbone.{key}': value for key, value in sd.items() if key[:5] != 'head.'}
    ),
)


def answers_right(backbone):
    with torch.no_grad():
        features = backbone.eval()(image_for((2, 3, 96, 128)))
    index = backbone.out_indices[-1] + 1
    return relative_error(features[-1], golden('t2')[f'feat{index}']) < 1e-5


@pytest.mark.parametrize('form', sorted(WRAPPED))
@pytest.mark.parametrize('prefix', [None, 'backbone.', 'backbone'])
def test_init_cfg(tmp_path, flat, form, prefix):
    path = tmp_path / 'authors.pth'
    torch.save(WRAPPED[form](flat), path)
    init_cfg = dict(type='Pretrained', checkpoint=str(path))
    if prefix:
        init_cfg['prefix'] = prefix
    backbone = MobileMamba('t2', init_cfg=init_cfg)
    backbone.init_weights()
    assert answers_right(backbone)


@pytest.mark.parametrize('form', sorted(WRAPPED))
def test_load_checkpoint(tmp_path, flat, form):
    path = tmp_path / 'authors.pth'
    torch.save(WRAPPED[form](flat), path)
    backbone = MobileMamba('t2')
    load_checkpoint(backbone, str(path), strict=True)
    assert answers_right(backbone)


def test_load_state_dict_inside_a_larger_model(flat):
    model = torch.nn.ModuleDict(dict(backbone=MobileMamba('t2')))
    model.load_state_dict({f'backbone.{key}': v for key, v in flat.items() if key[:5] != 'head.'})
    assert answers_right(model['backbone'])


def test_stages_that_are_not_built_are_left_out(tmp_path, flat):
    ours = MobileMamba('t2').state_dict()
    backbone = MobileMamba('t2', out_indices=(0, 1))
    backbone.load_state_dict(dict(flat))
    assert answers_right(backbone)
    backbone.load_state_dict(ours)
    assert torch.equal(backbone.stem[0].conv.weight, ours['stem.0.conv.weight'])


def test_our_own_checkpoints(tmp_path, flat):
    source = MobileMamba('t2')
    source.load_state_dict(dict(flat))
    path = tmp_path / 'classifier.pth'
    torch.save(dict(state_dict={f'backbone.{k}': v for k, v in source.state_dict().items()}, meta={}), path)
    for prefix in ('backbone.', None):
        backbone = MobileMamba('t2', init_cfg=dict(type='Pretrained', checkpoint=str(path), prefix=prefix))
        backbone.init_weights()
        assert answers_right(backbone)
    backbone = MobileMamba('t2')
    load_checkpoint(backbone, str(path), strict=True)
    assert answers_right(backbone)


def fused(sd):
    """Convert to the authors' deploy layout: convolutions with bias instead of convolution and norm."""
    keys = {key: value for key, value in sd.items() if '.bn.' not in key}
    return {key.replace('.c.weight', '.weight'): value for key, value in keys.items()}


def without(sd, key):
    return {name: value for name, value in sd.items() if name != key}


BROKEN = dict(
    fused=(fused, r'MobileMamba T2 .* in the deployed form.*cannot be undone'),
    other_arch=(lambda sd: authors_checkpoint('t4'), r'of another shape: .*looks like a MobileMamba T4 '),
    missing=(
        lambda sd: without(sd, 'blocks1.0.dw0.m.c.weight'),
        r'1 missing: stages.0.blocks.0.dw0.fn.conv.weight',
    ),
    left_over=(lambda sd: {**sd, 'blocks1.9.odd': torch.zeros(1)}, r'1 left over: stages.0.blocks.9.odd'),
    shape=(
        lambda sd: {**sd, 'patch_embed.0.c.weight': torch.zeros(18, 4, 3, 3)},
        r'stem.0.conv.weight \(18, 4, 3, 3\) instead of \(18, 3, 3, 3\)',
    ),
    wavelet=(
        lambda sd: {k: v.abs() if k.endswith('iwt_filter') else v for k, v in sd.items()},
        r'iwt_filter is not the Haar wavelet',
    ),
    foreign=(lambda sd: {'conv1.weight': torch.zeros(64, 3, 7, 7)}, r'no MobileMamba .*conv1.weight'),
    foreign_vit=(lambda sd: {'patch_embed.proj.weight': torch.zeros(8, 3, 16, 16)}, r'no MobileMamba'),
    foreign_convnext=(
        lambda sd: {'stem.0.weight': torch.zeros(8), 'stages.0.x': torch.zeros(1)},
        r'no MobileMamba',
    ),
    not_a_tensor=(lambda sd: {**sd, 'epoch': 3}, r"other things than tensors, under \['epoch'\]"),
    empty=(lambda sd: {}, r'no MobileMamba .*none'),
)


@pytest.mark.parametrize('name', sorted(BROKEN))
def test_nothing_is_loaded_in_part(tmp_path, flat, name):
    change, message = BROKEN[name]
    path = tmp_path / 'broken.pth'
    torch.save(change(flat), path)
    backbone = MobileMamba('t2', init_cfg=dict(type='Pretrained', checkpoint=str(path)))
    with pytest.raises(CheckpointError, match=r'(?s)broken.pth was not loaded.*' + message):
        backbone.init_weights()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    if name != 'empty':
        with pytest.raises(CheckpointError, match='(?s)' + message):
            load_checkpoint(backbone, str(path), strict=False)
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    if name != 'other_arch':  # a valid file of another arch
        assert run_converter(path, tmp_path / 'out.pth')[0] == 1
    assert [p.name for p in tmp_path.iterdir()] == ['broken.pth']


class Payload:
    def __reduce__(self):
        return types.SimpleNamespace, ()


def zip_bytes(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def script_bytes():
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(torch.nn.Linear(1, 1), torch.zeros(1, 1)), buffer)
    return buffer.getvalue()


def program_bytes():
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(torch.nn.Linear(1, 1), (torch.zeros(1, 1),)), buffer)
    return buffer.getvalue()


def numpy_bytes():
    buffer = io.BytesIO()
    np.savez(buffer, weight=np.zeros(1))
    return buffer.getvalue()


UNREADABLE = dict(
    script=(lambda sd: script_bytes(), r'is a program of TorchScript, not a checkpoint: give the file that'),
    program=(lambda sd: program_bytes(), r'is a program of torch\.export, not a checkpoint'),
    arrays=(lambda sd: numpy_bytes(), 'is arrays of numpy, not a checkpoint'),
    onnx=(lambda sd: b'\x08\x08\x12\x07pytorch', 'is a file of ONNX, not a checkpoint'),
    json=(lambda sd: b'{"epoch": 1}', 'is JSON, not a checkpoint'),
    web_page=(lambda sd: b'<!DOCTYPE html><html><title>Google Drive - Virus scan warning', 'web page'),
    pointer=(lambda sd: b'version https://git-lfs.github.com/spec/v1\noid sha256:1\n', 'pointer file'),
    empty=(lambda sd: b'', 'damaged or was not downloaded completely'),
    truncated=(lambda sd: zip_bytes(sd)[:-5000], 'damaged or was not downloaded completely'),
    noise=(lambda sd: bytes(range(1, 200)), 'damaged or was not downloaded completely'),
    foreign_class=(
        lambda sd: zip_bytes(dict(net=sd, args=Payload())),
        'Python objects beside tensors.*SimpleNamespace',
    ),
    legacy_foreign=(lambda sd: pickle.dumps(dict(args=Payload()), 2), 'refused: types.SimpleNamespace'),
    a_list=(lambda sd: zip_bytes([torch.zeros(1)]), 'holds a list, not a dict'),
)


@pytest.mark.parametrize('name', sorted(UNREADABLE))
def test_unreadable_files(tmp_path, flat, name):
    content, message = UNREADABLE[name]
    path = tmp_path / 'download.pth'
    path.write_bytes(content(flat))
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(path)
    output = tmp_path / 'out-12345678.pth'
    output.write_text('from before')
    code, text = run_converter(path, tmp_path / 'out.pth')
    assert code == 1 and 'was not converted' in text
    assert sorted(p.name for p in tmp_path.iterdir()) == ['download.pth', 'out-12345678.pth']
    assert output.read_text() == 'from before'


def test_safetensors(tmp_path, flat):
    """With ``init_cfg`` and mmengine's loader; the error of a truncated file names it."""
    safetensors = pytest.importorskip('safetensors.torch')
    path = tmp_path / 'network.safetensors'
    weights = {key: value.contiguous() for key, value in flat.items()}
    safetensors.save_file(weights, path)
    backbone = MobileMamba('t2', init_cfg=dict(type='Pretrained', checkpoint=str(path)))
    backbone.init_weights()
    assert answers_right(backbone)
    other = MobileMamba('t2')
    load_checkpoint(other, str(path), strict=True)
    assert answers_right(other)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match='damaged or was not downloaded completely'):
        read_checkpoint(path)
    with pytest.raises(FileNotFoundError, match='is a folder, not a checkpoint file'):
        read_checkpoint(tmp_path)


def test_left_over_stage_is_an_error(flat):
    weights = MobileMamba('t2').state_dict()
    weights['stages.3.odd'] = torch.zeros(1)
    with pytest.raises(RuntimeError, match=r'stages.3.odd'):
        MobileMamba('t2').load_state_dict(weights)


def test_a_failed_load_can_be_tried_again(tmp_path, flat):
    path = tmp_path / 'weights.pth'
    torch.save({}, path)
    backbone = MobileMamba('t2', init_cfg=dict(type='Pretrained', checkpoint=str(path)))
    with pytest.raises(CheckpointError):
        backbone.init_weights()
    torch.save(flat, path)
    backbone.init_weights()
    assert answers_right(backbone)


def test_missing_file(tmp_path):
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'nowhere.pth'))
    with pytest.raises(FileNotFoundError, match=r'no checkpoint file .*nowhere.pth'):
        MobileMamba('t2', init_cfg=init_cfg).init_weights()


def run_converter(*args):
    """Run the converter; returns exit code and message."""
    try:
        converter.main([str(arg) for arg in args])
    except SystemExit as stop:
        return (1, stop.code) if isinstance(stop.code, str) else (stop.code, '')
    return 0, ''


@pytest.mark.parametrize('form', ['flat', 'ema', 'module'])
def test_converter(tmp_path, flat, form, capsys):
    source = tmp_path / 'authors.pth'
    torch.save(WRAPPED[form](flat), source)
    assert run_converter(source, tmp_path / 'mobilemamba-t2.pth')[0] == 0
    (path,) = tmp_path.glob('mobilemamba-t2-*.pth')
    assert str(path) in capsys.readouterr().out

    import hashlib

    assert path.stem.endswith('-' + hashlib.sha256(path.read_bytes()).hexdigest()[:8])
    content = torch.load(path, weights_only=True)
    assert content['meta'] == dict(
        arch='t2', weights='net_E' if form == 'ema' else 'flat', layout='mmpretrain'
    )
    assert {key.split('.')[0] for key in content['state_dict']} == {'backbone', 'head'}
    assert len(content['state_dict']) == len([key for key in flat if not key.endswith('t_filter')])


def test_converter_takes_raw_weights_on_request(tmp_path, flat):
    source = tmp_path / 'authors.pth'
    torch.save(dict(net=flat, net_E=other_weights(flat)), source)
    assert run_converter(source, tmp_path / 'raw.pth', '--raw')[0] == 0
    content = torch.load(next(tmp_path.glob('raw-*.pth')), weights_only=True)
    assert content['meta']['weights'] == 'net'
    assert torch.equal(content['state_dict']['head.head.linear.bias'], flat['head.l.bias'])


@pytest.mark.parametrize('arch', ['t4', 's6', 'b1'])
def test_converter_knows_every_arch(arch):
    meta = converter.convert(authors_checkpoint(arch))['meta']
    assert meta['arch'] == ('b1/b2/b4' if arch == 'b1' else arch)


def test_converter_usage(tmp_path, flat, capsys):
    source = tmp_path / 'authors.pth'
    torch.save(flat, source)
    assert run_converter(source, tmp_path / 'out.pt')[0] == 2
    assert run_converter(source, tmp_path / 'no' / 'out.pth')[0] == 2
    assert run_converter(tmp_path / 'none.pth', tmp_path / 'out.pth') == (
        1,
        f'{tmp_path / "none.pth"} was not converted. There is no checkpoint file {tmp_path / "none.pth"}.',
    )
    headless = {key: value for key, value in flat.items() if key[:5] != 'head.'}
    torch.save(headless, source)
    assert 'missing: ' in run_converter(source, tmp_path / 'out.pth')[1]


def test_describe(flat):
    assert describe(flat) == "a MobileMamba T2 in the authors' layout"
    assert describe(MobileMamba('b4').state_dict()) == 'a MobileMamba B1/B2/B4 in the layout of this package'


CLASSIFIER = dict(
    type='ImageClassifier',
    backbone=dict(type='MobileMamba', arch='t2'),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LeViTClsHead', num_classes=1000, in_channels=368, distillation=False),
)


def build_classifier():
    """Build the classifier in mmpretrain's scope, because other tests change the default scope."""
    mmpretrain = pytest.importorskip('mmpretrain')
    init_default_scope('mmpretrain')
    return mmpretrain.registry.MODELS.build(CLASSIFIER)


@pytest.mark.parametrize('converted', [True, False])
def test_classifier_gives_the_authors_logits(tmp_path, flat, converted):
    """For the converted file and the authors' file, in mmpretrain."""
    path = tmp_path / 'authors.pth'
    torch.save(flat, path)
    if converted:
        converter.main([str(path), str(tmp_path / 'converted.pth')])
        path = next(tmp_path.glob('converted-*.pth'))
    model = build_classifier().eval()
    load_checkpoint(model, str(path), strict=True)
    with torch.no_grad():
        logits = model(image_for((2, 3, 192, 192)))
    assert relative_error(logits, golden('t2')['logits']) < 1e-5


@pytest.mark.parametrize('name', ['missing', 'other_arch', 'fused'])
def test_classifier_takes_no_part_of_an_authors_file(tmp_path, flat, name):
    """mim test loads with strict=False, but mismatched files are still an error."""
    change, _ = BROKEN[name]
    path = tmp_path / 'broken.pth'
    torch.save(change(flat), path)
    model = build_classifier()
    with pytest.raises(CheckpointError, match='looks like a MobileMamba'):
        load_checkpoint(model, str(path), strict=False)


@pytest.mark.parametrize('key', ['head.l.bias', 'head.bn.running_mean'])
def test_converter_checks_the_head(flat, key):
    with pytest.raises(CheckpointError, match=r'has shape \(7,\) instead of'):
        converter.convert({**flat, key: torch.zeros(7)})


def test_converter_names_the_weights_it_took(flat):
    assert converter.convert(dict(net=flat, net_E=None))['meta']['weights'] == 'net'


# Parts of our layout, other networks, and other numbers of channels.


def own_weights(**kwargs):
    return small(**kwargs).state_dict()


PARTS = {
    'downsample': r'stages\.1\.downsample\.',
    'merge': r'stages\.2\.downsample\.merge\.',
    'stem': r'stem\.',
    'a_norm': r'stem\.0\.bn\.',
    'one_block': r'stages\.1\.blocks\.1\.mixer\.',
    'scan': r'stages\.0\.blocks\.0\.mixer\.fn\.global_op\.ss2d\.(A_log|D)$',
}


@pytest.mark.parametrize('deploy', [False, True])
@pytest.mark.parametrize('name', PARTS)
def test_a_part_of_the_network(name, deploy):
    """Existing entries are loaded, and missing ones are reported by torch, also with strict=True."""
    source, backbone = small(), MobileMamba(SMALL)
    if deploy:
        source.switch_to_deploy()
        backbone.switch_to_deploy()
    part = {key: value for key, value in source.state_dict().items() if re.match(PARTS[name], key)}
    if not part:
        assert deploy and name == 'a_norm'
        return
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    missing, unexpected = backbone.load_state_dict(part, strict=False)
    counters = {key for key in before if key.endswith('num_batches_tracked')}
    assert not unexpected and set(missing) == set(before) - set(part) - counters
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, part.get(key, before[key])), key
    with pytest.raises(RuntimeError, match='Missing key'):
        backbone.load_state_dict(part)


OTHERS = {
    'cspnext': ['stem.0.conv.weight', 'stem.0.bn.weight', 'stem.1.conv.weight', 'stage1.0.conv.weight'],
    'convnext': ['stem.0.weight', 'stages.0.blocks.0.conv_dw.weight', 'stages.1.downsample.0.weight'],
    'efficientvit': [
        'patch_embed.0.c.weight',
        'blocks1.0.dw0.m.c.weight',
        'blocks1.0.mixer.m.attn.qkvs.0.c.weight',
    ],
    'efficientvit_timm': [
        'stages.0.blocks.0.dw0.m.conv.weight',
        'stages.0.blocks.0.mixer.m.attn.proj.1.bn.weight',
    ],
    'metaformer': ['stem.conv.weight', 'stages.0.blocks.0.token_mixer.norm.weight'],
}


@pytest.mark.parametrize('name', OTHERS)
@pytest.mark.parametrize('prefix', ['', 'backbone.'])
def test_other_networks_are_not_described_as_this_one(name, prefix):
    foreign = {prefix + key: torch.zeros(4) for key in OTHERS[name]}
    assert describe(foreign) == f'no MobileMamba (its first keys: {", ".join(list(foreign)[:3])})'
    model = torch.nn.ModuleDict(dict(backbone=MobileMamba(SMALL))) if prefix else MobileMamba(SMALL)
    with pytest.raises(CheckpointError, match='looks like no MobileMamba'):
        model.load_state_dict(foreign, strict=False)


@pytest.mark.parametrize(('checkpoint', 'network'), [('t2', 't4'), ('t4', 's6'), ('t4', 'b1'), ('b1', 's6')])
def test_another_size_is_an_error(checkpoint, network):
    """T4, S6 and B1 share the width of a stage, and mmengine alone would load the matching part."""
    weights = MobileMamba(checkpoint).state_dict()
    backbone = MobileMamba(network)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    with pytest.raises(
        CheckpointError, match=f'(?s)of another shape: .*looks like a MobileMamba {checkpoint.upper()}'
    ):
        load_state_dict(backbone, weights)
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


def test_most_of_it_fits(capsys):
    """With one block less and another number of channels, one warning names both."""
    shorter = dict(SMALL, depths=(1, 1, 1))
    weights = own_weights()
    backbone = MobileMamba(shorter, in_channels=4)
    load_state_dict(backbone, weights)
    loaded = backbone.state_dict()
    assert all(torch.equal(loaded[key], weights[key]) for key in loaded if key != 'stem.0.conv.weight')
    text = capsys.readouterr().out
    assert text.count('do not match exactly') == 1
    assert 'size mismatch for stem.0.conv.weight: copying a param with shape torch.Size([4, 3, 3, 3])' in text
    assert 'unexpected key in source state_dict: stages.1.blocks.1.dw0.fn.conv.weight' in text


def features(backbone, image):
    with torch.no_grad():
        return backbone.eval()(image)[-1]


@pytest.mark.parametrize('deploy', [False, True])
@pytest.mark.parametrize('way', ['load_state_dict', 'load_checkpoint', 'init_cfg'])
@pytest.mark.parametrize('channels', [1, 2, 4, 7])
def test_rgb_weights_for_other_channels(tmp_path, channels, way, deploy):
    """Gray images have the same features with one channel as with three."""
    rgb = small()
    image = torch.rand(1, 1, 64, 96, generator=torch.Generator().manual_seed(0))
    if deploy:
        rgb.switch_to_deploy()
    expected = features(rgb, image.expand(1, 3, 64, 96))
    path = tmp_path / 'rgb.pth'
    torch.save(dict(state_dict=rgb.state_dict()), path)
    init_cfg = dict(type='Pretrained', checkpoint=str(path)) if way == 'init_cfg' else None
    backbone = MobileMamba(
        SMALL, in_channels=channels, deploy=deploy, adapt_in_channels=True, init_cfg=init_cfg
    )
    if way == 'init_cfg':
        backbone.init_weights()
    elif way == 'load_checkpoint':
        load_checkpoint(backbone, str(path), strict=True)
    else:
        backbone.load_state_dict(rgb.state_dict())
    first = 'stem.0.weight' if deploy else 'stem.0.conv.weight'
    filters, of_rgb = backbone.state_dict()[first], rgb.state_dict()[first]
    if channels == 1:
        torch.testing.assert_close(features(backbone, image), expected, rtol=1e-4, atol=1e-5)
    else:  # red, green, blue, red, ...
        repeated = torch.stack([of_rgb[:, channel % 3] for channel in range(channels)], 1)
        torch.testing.assert_close(filters, repeated * 3 / channels)
    own = {key: value.clone() for key, value in backbone.state_dict().items()}
    backbone.load_state_dict(own)  # weights of the same network are loaded unchanged
    assert all(torch.equal(value, own[key]) for key, value in backbone.state_dict().items())


def test_authors_weights_for_one_channel(flat):
    backbone = MobileMamba('t2', in_channels=1, adapt_in_channels=True)
    backbone.load_state_dict(dict(flat))
    torch.testing.assert_close(
        backbone.stem[0].conv.weight.data, flat['patch_embed.0.c.weight'].sum(1, keepdim=True)
    )


def test_channels_are_not_adapted_unasked(tmp_path):
    path = tmp_path / 'rgb.pth'
    torch.save(own_weights(), path)
    init_cfg = dict(type='Pretrained', checkpoint=str(path))
    message = r'(?s)\(4, 3, 3, 3\) instead of \(4, 1, 3, 3\).*adapt_in_channels=True'
    with pytest.raises(CheckpointError, match=message):
        MobileMamba(SMALL, in_channels=1, init_cfg=init_cfg).init_weights()
    two = own_weights(in_channels=2)  # the meaning of the channels is unknown
    with pytest.raises(RuntimeError, match=r'size mismatch for stem\.0\.conv\.weight'):
        MobileMamba(SMALL, in_channels=4, adapt_in_channels=True).load_state_dict(two)


def test_a_detectors_weights_in_a_classifier_and_back():
    """The backbone's weights are loaded regardless of neck and head."""
    detector = {f'backbone.{key}': value for key, value in MobileMamba('t2').state_dict().items()}
    model = build_classifier()
    load_state_dict(model, {**detector, 'bbox_head.retina_cls.weight': torch.zeros(9)})
    back = torch.nn.ModuleDict(
        dict(backbone=MobileMamba('t2', out_indices=(0, 1)), neck=torch.nn.Linear(2, 2))
    )
    load_state_dict(back, model.state_dict())
    for key, value in back['backbone'].state_dict().items():
        assert torch.equal(value, detector[f'backbone.{key}']), key


def test_a_deployed_classifier_in_a_plain_detector():
    deployed = small()
    deployed.switch_to_deploy()
    weights = {f'backbone.{key}': value for key, value in deployed.state_dict().items()}
    with pytest.raises(CheckpointError, match='in the deployed form, which cannot be undone'):
        load_state_dict(torch.nn.ModuleDict(dict(backbone=MobileMamba(SMALL))), weights)
