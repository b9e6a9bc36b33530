"""Local files: folders and names that are searched, and comparisons of the content."""

import hashlib
import os
import sys

import pytest
import torch
from mmengine.runner import load_checkpoint
from safetensors.torch import save_file

from mmmobilemamba import MobileMamba
from mmmobilemamba.models.checkpoint import CheckpointError
from mmmobilemamba.weights import WEIGHTS, fetch, weights_of
from mmmobilemamba.weights.files import find, mirror_address, possible_names

from ..conftest import authors_checkpoint, load_script
from .conftest import as_bytes


def put(folder, name, content):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return folder / name


@pytest.mark.parametrize('place', ['weights', 'torch/hub/checkpoints', 'checkpoints', 'mirror'])
def test_folders(tmp_path, folder, monkeypatch, place, t2):
    """Download folder, torch's, that of our old configs, and a mirror; the file is not moved."""
    if place == 'mirror':
        monkeypatch.setenv('MMMOBILEMAMBA_MIRROR', str(tmp_path / 'mirror'))
    path = put(tmp_path / place, 'mobilemamba_t2.pth', t2)
    assert fetch('t2') == fetch('mobilemamba://t2') == path
    assert path.with_name('mobilemamba_t2.pth.sha256').read_text() == (
        f'{hashlib.sha256(t2).hexdigest()}  mobilemamba_t2.pth\n'
    )


def test_torch_folder_unless_chosen(tmp_path, folder, monkeypatch, t2):
    monkeypatch.delenv('MMMOBILEMAMBA_WEIGHTS')
    path = put(tmp_path / 'torch/hub/checkpoints', 'mobilemamba_t2.pth', t2)
    assert fetch('t2') == path


@pytest.mark.parametrize(
    'name',
    [
        'mobilemamba_t2.pth',
        't2.pth',
        'mobilemamba-t2_8xb128_in1k.pth',
        'mobilemamba-t2_in1k.pth',
        'mobilemamba-t2_in1k-{sha}.pth',
        'mobilemamba-t2_8xb128_in1k-{sha}.pth',
    ],
)
def test_names_of_files(folder, name, t2):
    name = name.format(sha=hashlib.sha256(t2).hexdigest()[:8])
    path = put(folder, name, t2)
    assert fetch('t2') == path


def test_converted_file(folder, t2):
    """The converter's output is found under the name used in the docs."""
    converter = load_script('tools/model_converters/mobilemamba_to_mm.py')
    folder.mkdir()
    checkpoint = converter.convert(authors_checkpoint('t2'))
    path = converter.save(checkpoint, folder / 'mobilemamba-t2_in1k.pth')
    assert fetch('t2') == path


def test_safetensors(folder):
    folder.mkdir()
    save_file(authors_checkpoint('t2'), folder / 'mobilemamba_t2.safetensors')
    assert fetch('t2') == folder / 'mobilemamba_t2.safetensors'


def test_no_two_weights_share_a_name():
    names = [name for weights in WEIGHTS for name in possible_names(weights)]
    assert len(names) == len(set(names))


def test_two_converted_files(folder):
    for sha in ('0123abcd', 'abcd0123'):
        put(folder, f'mobilemamba-t2_in1k-{sha}.pth', b'')
    with pytest.raises(
        CheckpointError, match=r'in1k-0123abcd.pth, mobilemamba-t2_in1k-abcd0123.pth. Keep one'
    ):
        fetch('t2')


def test_hash_in_the_name(folder, t2):
    put(folder, 'mobilemamba-t2_in1k-0123abcd.pth', t2)
    with pytest.raises(CheckpointError, match='not as its name says: the file is damaged'):
        fetch('t2')


def test_mirror_that_is_no_folder(folder, monkeypatch):
    monkeypatch.setenv('MMMOBILEMAMBA_MIRROR', 'ftp://somewhere')
    with pytest.raises(
        CheckpointError, match='MMMOBILEMAMBA_MIRROR=ftp://somewhere is neither a folder nor an address'
    ):
        fetch('t2')


def test_mirror_with_a_password(folder, monkeypatch):
    monkeypatch.setenv('MMMOBILEMAMBA_MIRROR', 'HTTPS://me:secret@host/weights')
    with pytest.raises(CheckpointError, match='a user or a password in front of the host') as error:
        fetch('t2')
    assert 'secret' not in str(error.value)
    monkeypatch.setenv('MMMOBILEMAMBA_MIRROR', 'HTTPS://host/weights/')
    assert mirror_address() == 'HTTPS://host/weights'


def test_file_that_has_changed(folder, t2):
    """The error names both files; after deleting the old SHA-256, the new file is verified and used."""
    path = put(folder, 'mobilemamba_t2.pth', t2)
    fetch('t2')
    path.write_bytes(as_bytes({'net': authors_checkpoint('t2')}))
    with pytest.raises(CheckpointError, match='has the sha256 ') as caught:
        fetch('t2')
    beside = path.with_name('mobilemamba_t2.pth.sha256')
    assert f'{path} has' in str(caught.value) and f'{beside} says' in str(caught.value)
    beside.unlink()
    assert fetch('t2') == path
    assert beside.read_text().split()[0] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_folder_that_cannot_be_written(tmp_path, folder, monkeypatch, t2):
    """Files are used without storing a SHA-256; downloads are an error."""
    path = put(folder, 'mobilemamba_t2.pth', t2)
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_uid == os.geteuid() and not parent.stat().st_mode & 0o001:
            parent.chmod(0o755)
    folder.chmod(0o555)
    user = os.geteuid()
    if user == 0:  # root can write to any folder
        os.seteuid(65534)
    try:
        assert fetch('t2') == path
        with pytest.raises(CheckpointError, match='weights, where downloads go, cannot be written'):
            fetch('t4')
    finally:
        os.seteuid(user)
        folder.chmod(0o755)
    assert os.listdir(folder) == ['mobilemamba_t2.pth']


def cut(content):
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    ('name', 'change', 'message'),
    [
        ('t2', cut, 'mobilemamba_t2.pth is damaged or was not downloaded completely'),
        ('t2', lambda _: b'<!DOCTYPE html>', 'mobilemamba_t2.pth is a web page'),
        (
            't4',
            lambda content: content,
            "is not the weights 't4', a MobileMamba T4: it looks like a MobileMamba T2",
        ),
        ('t2-kd', cut, 'mobilemamba_t2s.pth is damaged'),
    ],
)
def test_other_files(folder, t2, name, change, message):
    put(folder, weights_of(name).file_name, change(t2))
    with pytest.raises(CheckpointError, match=rf'{message}[^\n]*\nPut the right file there, or delete it'):
        fetch(name)


def without(state_dict, *starts):
    return {key: value for key, value in state_dict.items() if not key.startswith(starts)}


def whole(*keys):
    """A downstream checkpoint of B1 with additional keys."""
    backbone = {f'backbone.{key}': value for key, value in without(authors_checkpoint('b1'), 'head.').items()}
    return {'state_dict': {**backbone, **{key: torch.zeros(1) for key in keys}}}


KEYS = {
    'retinanet-b1': ('neck.fpn_convs.0.conv.weight', 'bbox_head.retina_cls.weight'),
    'mask-rcnn-b1': ('rpn_head.rpn_cls.weight', 'roi_head.mask_head.conv_logits.weight'),
    'ssdlite-b1-320': ('neck.extra_layers.0.0.conv.weight', 'bbox_head.cls_convs.0.1.weight'),
    'ssdlite-b1-512': ('neck.extra_layers.0.0.conv.weight', 'bbox_head.cls_convs.0.1.weight'),
    'sem-fpn-b4': ('neck.fpn_convs.0.conv.weight', 'decode_head.scale_heads.0.0.conv.weight'),
    'deeplabv3-b4': ('decode_head.aspp_modules.0.conv.weight', 'auxiliary_head.conv_seg.weight'),
    'pspnet-b4': ('decode_head.psp_modules.0.1.conv.weight', 'auxiliary_head.conv_seg.weight'),
}


@pytest.mark.parametrize('name', KEYS)
def test_whole_models(folder, name):
    """B1, B2 and B4 are the same network."""
    path = put(folder, weights_of(name).file_name, as_bytes(whole(*KEYS[name])))
    assert fetch(name) == path


@pytest.mark.parametrize(
    ('name', 'checkpoint', 'wanted'),
    [
        ('retinanet-b1', lambda: authors_checkpoint('b1'), "begin with 'bbox_head.retina_cls.'"),
        ('retinanet-b1', lambda: whole(*KEYS['mask-rcnn-b1']), "begin with 'bbox_head.retina_cls.'"),
        ('mask-rcnn-b1', lambda: whole(*KEYS['retinanet-b1']), "begin with 'roi_head.mask_head.'"),
        ('pspnet-b4', lambda: whole(*KEYS['deeplabv3-b4']), "begin with 'decode_head.psp_modules.'"),
        (
            'b1',
            lambda: whole(*KEYS['retinanet-b1']),
            'of a detector or segmentor, with bbox_head and neck, and not of a classifier',
        ),
        ('b1', lambda: without(authors_checkpoint('b1'), 'head.'), "begin with 'head.'"),
    ],
)
def test_other_tasks(folder, name, checkpoint, wanted):
    put(folder, weights_of(name).file_name, as_bytes(checkpoint()))
    with pytest.raises(
        CheckpointError, match=f'is not the weights {name!r}: the backbone fits, but .*{wanted}'
    ):
        fetch(name)


def test_own_classifier(folder):
    """A classifier trained for 10 classes, in the authors' layout and in ours."""
    tensors = authors_checkpoint('t2')
    tensors.update({key: value[:10] for key, value in tensors.items() if key.startswith('head.l.')})
    put(folder, 'mobilemamba_t2.pth', as_bytes(tensors))
    with pytest.raises(CheckpointError, match=r'it has \[10\] classes and not the 1000 of ImageNet'):
        fetch('t2')


def test_short_names_in_folders_for_all(tmp_path, folder, t2):
    """``t2.pth`` is ambiguous in a folder shared with other weights."""
    for place in ('torch/hub/checkpoints', 'checkpoints'):
        put(tmp_path / place, 't2.pth', t2)
    assert find(weights_of('t2')) is None


def test_incomplete_backbone(folder):
    checkpoint = without(authors_checkpoint('t2'), 'blocks1.0.mixer.m.attn.global_op.')
    put(folder, 'mobilemamba_t2.pth', as_bytes(checkpoint))
    with pytest.raises(
        CheckpointError, match=r"is not the weights 't2'. .*\n  \d+ missing: stages.0.blocks.0.mixer"
    ):
        fetch('t2')


def test_nothing_is_there(folder, tmp_path, monkeypatch):
    """The message has the file name, its URL for browsers, and the folders that are searched."""
    monkeypatch.setitem(sys.modules, 'gdown', None)
    monkeypatch.setenv('MMMOBILEMAMBA_MIRROR', str(tmp_path / 'mirror'))
    (tmp_path / 'mirror').mkdir()
    with pytest.raises(CheckpointError) as caught:
        fetch('mobilemamba://t2')
    message = str(caught.value)
    assert "Google Drive need gdown: python -m pip install 'gdown>=6.3'" in message
    assert f'Get mobilemamba_t2.pth with a browser from\n  {weights_of("t2").address}\n' in message
    folders = (folder, tmp_path / 'torch/hub/checkpoints', tmp_path / 'checkpoints', tmp_path / 'mirror')
    assert all(f'\n  {each}\n' in message for each in folders)
    assert os.listdir(folder) == []


def test_ways_into_a_network(folder, t2):
    """``init_cfg``, with a prefix, and ``load_checkpoint``."""
    put(folder, 'mobilemamba_t2.pth', t2)
    expected = MobileMamba('t2')
    expected.load_state_dict(authors_checkpoint('t2'))
    pretrained = dict(type='Pretrained', checkpoint='mobilemamba://t2', prefix='backbone.')
    networks = [MobileMamba('t2', init_cfg=pretrained), MobileMamba('t2')]
    networks[0].init_weights()
    load_checkpoint(networks[1], 'mobilemamba://t2', strict=True)
    for network in networks:
        for key, value in network.state_dict().items():
            assert torch.equal(value, expected.state_dict()[key])


def test_unknown_name_in_a_config(folder):
    network = MobileMamba('t2', init_cfg=dict(type='Pretrained', checkpoint='mobilemamba://t3'))
    with pytest.raises(ValueError, match="no published weights named 't3'"):
        network.init_weights()
