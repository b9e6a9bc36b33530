"""FLOPs by part: the authors' figures, manual counts, and every codebase."""

import mmengine
import pytest
import torch
from mmengine.config import Config

pytest.importorskip('mmdet')
pytest.importorskip('mmpretrain')
pytest.importorskip('mmseg')

from mmmobilemamba.deployment import build as build_graphs
from mmmobilemamba.deployment.errors import DeploymentError

from ..conftest import ROOT, load_script

get_flops = load_script('tools/analysis_tools/get_flops.py')

METAFILES = sorted((ROOT / 'configs').glob('*/metafile.yml'))
# Config, side in px, parameters, and MFLOPs in the authors' README and without the scan, both to the
# authors' precision.
CLASSIFIERS = [
    ('mobilemamba-t2_8xb128_in1k', 192, 8_806_682, 254.7, 253.4),
    ('mobilemamba-t4_8xb128_in1k', 192, 14_137_690, 412.5, 410.8),
    ('mobilemamba-s6_8xb128_in1k', 224, 14_996_696, 652.3, 649.7),
    ('mobilemamba-b1_8xb128_in1k', 256, 17_070_625, 1079.8, 1074.2),
    ('mobilemamba-b2_8xb128_in1k-384px', 384, 17_070_625, 2427.1, 2414.5),
    ('mobilemamba-b4_8xb128_in1k-512px', 512, 17_070_625, 4313.3, 4290.9),
]


def find_config(pattern):
    """The only config whose path in ``configs`` matches a pattern."""
    (path,) = (ROOT / 'configs').glob(pattern)
    return Config.fromfile(path)


def count(config, shape):
    """FLOPs by module, FLOPs of the listed parts, and the model."""
    model, images, data_samples = get_flops.build(config, shape)
    return *get_flops.count_flops(model, images, data_samples), model


@pytest.mark.parametrize(
    ('name', 'side', 'parameters', 'authors', 'without_scan'),
    CLASSIFIERS,
    ids=[row[0] for row in CLASSIFIERS],
)
def test_classifiers_have_the_authors_figures(name, side, parameters, authors, without_scan):
    config = find_config(f'mobilemamba/{name}.py')
    assert get_flops.default_shape(config) == (side, side)
    flops, portions, model = count(config, (side, side))
    printed = flops[''] - portions['wavelet convolutions']
    assert round(printed / 1e6, 1) == authors
    assert round((printed - portions['scan']) / 1e6, 1) == without_scan
    assert flops[''] == flops['backbone'] + flops['neck'] + flops['head']
    total = next(line.split() for line in get_flops.table(model, flops, portions) if 'total' in line)
    assert total == ['total', f'{parameters:,}', f'{flops[""]:,}']


def test_portions_by_hand():
    """T2 at 192 px: maps with sides 12, 6 and 3, of which 3 is padded to 4; 1, 2 and 2 blocks."""
    flops, portions, _ = count(find_config('mobilemamba/mobilemamba-t2_8xb128_in1k.py'), (192, 192))
    blocks = ((1, 112, 7, 12, 6), (2, 192, 5, 6, 3), (2, 224, 3, 3, 2))  # number, channels, kernel, sides
    scans = [10 * side**2 * 4 * channels for _, channels, _, side, _ in blocks]
    convs = [kernel**2 * 4 * channels * half**2 for _, channels, kernel, _, half in blocks]
    numbers = [block[0] for block in blocks]
    assert portions['scan'] == sum(number * scan for number, scan in zip(numbers, scans))
    assert portions['wavelet convolutions'] == sum(number * conv for number, conv in zip(numbers, convs))
    # Parts of the last mixer's global branch; the remainder is the two Haar transforms.
    prefix = 'backbone.stages.2.blocks.1.mixer.fn.global_op'
    rest = flops[prefix] - flops[f'{prefix}.ss2d'] - flops[f'{prefix}.wavelet_conv']
    assert flops[f'{prefix}.wavelet_conv'] == convs[2]
    assert rest == 2 * 4 * 224 * 4**2
    assert portions['Haar transforms'] == 2 * 4 * (112 * 12**2 + 2 * 192 * 6**2 + 2 * 224 * 4**2)


def test_folded():
    """The deployed form has the same scans and wavelets, but no batch norms."""
    config = find_config('mobilemamba/mobilemamba-t2_8xb128_in1k.py')
    flops, portions, _ = count(config, (192, 192))
    config.merge_from_dict({'model.backbone.deploy': True, 'model.head.deploy': True})
    folded, found, _ = count(config, (192, 192))
    assert found == portions
    assert folded['head'] == 368 * 1000
    assert 0.9 * flops['backbone'] < folded['backbone'] < flops['backbone']  # without the batch norms


def test_attention():
    """A single PyTorch call: both products of 6 queries with 4 keys, in 2 heads."""

    class Attention(torch.nn.Module):
        def forward(self, images):
            query, key, value = images[:, :, :6, :8], images[:, :, :4, :8], images[:, :, :4, :5]
            return torch.nn.functional.scaled_dot_product_attention(query, key, value)

    flops, _ = get_flops.count_flops(Attention(), torch.zeros(1, 2, 6, 8))
    assert flops[''] == 2 * 6 * 4 * (8 + 5)


def test_bare_backbone(capsys):
    get_flops.main(['t2', '--shape', '192', '192'])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == 't2: 192 x 192 pixels, 192 x 192 for the network'
    flops, portions, _ = count(find_config('mobilemamba/mobilemamba-t2_8xb128_in1k.py'), (192, 192))
    rows = {line.split()[0]: line.split()[-1].replace(',', '') for line in lines[2:]}
    assert int(rows['total']) == flops['backbone'] and int(rows['scan']) == portions['scan']
    with pytest.raises(SystemExit):
        get_flops.main(['t2'])
    assert 'give --shape HEIGHT WIDTH' in capsys.readouterr().err


def test_detector_by_hand():
    flops, _, _ = count(find_config('retinanet/*2e_digits.py'), (128, 128))
    pixels = 16**2 + 8**2 + 4**2 + 2**2 + 1
    towers = 4 * (64 * 64 * 9 + 5 * 64)  # two convolutions each, with group norm
    assert flops['bbox_head'] == pixels * (towers + 64 * 9 * 8 * (10 + 4))
    assert flops[''] == flops['backbone'] + flops['neck'] + flops['bbox_head']


def test_two_stage_detector():
    flops, _, _ = count(find_config('mask_rcnn/*_digits.py'), (96, 128))
    parts = [flops[part] for part in ('backbone', 'neck', 'rpn_head', 'roi_head')]
    assert all(parts) and sum(parts) == flops['']
    assert flops['roi_head.bbox_head'] + flops['roi_head.mask_head'] == flops['roi_head']


def test_segmentor_leaves_out_the_auxiliary_head():
    config = find_config('deeplabv3/*_ade20k-512x512.py')
    assert get_flops.default_shape(config) == (512, 512)
    flops, portions, model = count(config, (64, 64))
    assert flops['auxiliary_head'] == 0 and model.with_auxiliary_head
    # The resized pooling branch of the head: bilinear, 4 FLOPs per value.
    assert flops[''] - flops['backbone'] - flops['decode_head'] == 4 * 256
    assert any(line.split() == ['rest', '0', '1,024'] for line in get_flops.table(model, flops, portions))


def test_command_line(capsys):
    (path,) = (ROOT / 'configs').glob('ssd/*_digits.py')
    get_flops.main(
        [str(path), '--shape', '50', '70', '--cfg-options', 'model.data_preprocessor.pad_size_divisor=32']
    )
    lines = capsys.readouterr().out.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith(str(path)))
    assert lines[start].endswith(': 50 x 70 pixels, 64 x 96 for the network')
    assert [line.split()[0] for line in lines[start + 1 :]] == [
        *('part', 'backbone', 'neck', 'bbox_head', 'total', 'scan', 'Haar', 'wavelet'),
    ]
    numbers = [int(line.split()[-1].replace(',', '')) for line in lines[start + 2 :]]
    assert sum(numbers[:3]) == numbers[3] > numbers[4] > 0


@pytest.mark.parametrize('metafile', METAFILES, ids=lambda path: path.parent.name)
def test_metafiles(metafile):
    """Parameters and FLOPs of every entry equal the tool's output."""
    for entry in mmengine.load(metafile)['Models']:
        config = Config.fromfile(ROOT / entry['Config'])
        flops, _, model = count(config, get_flops.default_shape(config))
        parameters = sum(parameter.numel() for parameter in model.parameters())
        found = (parameters, flops[''])
        assert found == (entry['Metadata']['Parameters'], entry['Metadata']['FLOPs']), entry['Name']


def config_with(*steps, **preprocessor):
    """A config with a test pipeline."""
    dataset = dict(pipeline=list(steps))
    return Config(dict(model=dict(data_preprocessor=preprocessor), test_dataloader=dict(dataset=dataset)))


EDGE = dict(type='ResizeEdge', scale=36)


@pytest.mark.parametrize(
    ('steps', 'shape'),
    [
        ([dict(type='CenterCrop', crop_size=(128, 96))], (96, 128)),  # width first, as in mmcv
        ([dict(type='Resize', scale=64)], (64, 64)),
        ([dict(type='mmdet.Resize', scale=(1333, 800), keep_ratio=True)], (800, 1333)),
        ([dict(type='Resize', scale=(48, 40)), dict(type='CenterCrop', crop_size=64)], (40, 48)),
        ([EDGE, dict(type='CenterCrop', crop_size=32)], (32, 32)),
        ([dict(EDGE, edge='long')], (36, 36)),
    ],
)
def test_default_shapes(steps, shape):
    """The largest size after the pipeline, as for an exported network."""
    config = config_with(*steps)
    assert get_flops.default_shape(config) == shape
    about = dict(build_graphs.describe(config, 'backbone'), labels=[])
    assert build_graphs.input_size(about, dynamic=True) == shape


def test_shape_of_a_segmentor():
    """The crop size, as in published figures; for a given image, its size after the pipeline."""
    config = config_with(dict(type='Resize', scale=(2048, 512), keep_ratio=True), size=(512, 512))
    assert get_flops.default_shape(config) == (512, 512)
    assert get_flops.default_shape(config, (480, 640)) == (512, 683)


@pytest.mark.parametrize('channels', [1, 4])
def test_other_channels(channels):
    """Only the FLOPs of the stem's first convolution, 3 x 3 with stride 2, change."""
    config = find_config('mobilemamba/mobilemamba-t2_8xb128_in1k.py')
    colors, _, _ = count(config, (64, 64))
    config.model.backbone.in_channels = channels
    flops, _, model = count(config, (64, 64))
    width = model.backbone.stem[0].conv.out_channels
    assert flops[''] - colors[''] == (channels - 3) * 9 * width * 32 * 32


@pytest.mark.parametrize('steps', [[], [EDGE], [dict(type='Pad', size_divisor=32)]])
def test_pipelines_without_a_largest_size(steps):
    with pytest.raises(DeploymentError):
        get_flops.default_shape(config_with(*steps))


def test_size_of_a_picture(capsys):
    """480 x 640 is resized to 96 x 128 by the test pipeline and padded to multiples of 64 by the model."""
    (path,) = (ROOT / 'configs').glob('retinanet/*2e_digits.py')
    options = [
        'test_dataloader.dataset.pipeline.1.scale=(128,100)',
        'model.data_preprocessor.pad_size_divisor=64',
    ]
    get_flops.main([str(path), '--picture', '480', '640', '--cfg-options', *options])
    assert f'{path}: 96 x 128 pixels, 128 x 128 for the network' in capsys.readouterr().out


def test_config_without_a_size(tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(
        "default_scope = 'mmpretrain'\nmodel = dict()\ntest_dataloader = dict(dataset=dict(pipeline=[]))\n"
    )
    with pytest.raises(SystemExit, match=r'makes no largest size. Give --shape HEIGHT WIDTH'):
        get_flops.main([str(path)])


def test_a_size_that_a_neck_cannot_take():
    path = 'configs/retinanet/retinanet_mobilemamba-b1_fpn_1x_coco.py'
    neck = ['model.neck._delete_=True', 'model.neck.type=PAFPN', 'model.neck.num_outs=3']
    neck += ['model.neck.in_channels=[200,376,448]', 'model.neck.out_channels=8']
    arguments = [str(ROOT / path), '--cfg-options', *neck, 'model.data_preprocessor.pad_size_divisor=1']
    with pytest.raises(SystemExit, match=r'cannot take 96 x 144 pixels: .*multiples of its largest stride'):
        get_flops.main([*arguments, '--shape', '96', '144'])
