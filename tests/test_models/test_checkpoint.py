"""The authors' checkpoints: every way in, and every way to refuse one."""

import io
import pickle
import types
from collections import OrderedDict

import pytest
import torch
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint

from mmmobilemamba import MobileMamba
from mmmobilemamba.models.checkpoint import CheckpointError, describe, read_checkpoint

from ..conftest import authors_checkpoint, golden, image_for, load_script, relative_error

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
    """As the authors' deploy files: a convolution with bias instead of convolution and norm."""
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
    if name != 'other_arch':  # which is a good file, only not for this backbone
        assert run_converter(path, tmp_path / 'out.pth')[0] == 1
    assert [p.name for p in tmp_path.iterdir()] == ['broken.pth']


class Payload:
    def __reduce__(self):
        return types.SimpleNamespace, ()


def zip_bytes(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


UNREADABLE = dict(
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
    """Exit code and message."""
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
    """The classifier in mmpretrain's scope, whatever scope another test has left."""
    mmpretrain = pytest.importorskip('mmpretrain')
    init_default_scope('mmpretrain')
    return mmpretrain.registry.MODELS.build(CLASSIFIER)


@pytest.mark.parametrize('converted', [True, False])
def test_classifier_gives_the_authors_logits(tmp_path, flat, converted):
    """Both the converted file and the authors' own, in mmpretrain."""
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
    """mim test loads with strict=False; a file that does not fit is an error all the same."""
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
