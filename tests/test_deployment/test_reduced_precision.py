"""float16 and int8 files: their content, their difference from float32, and errors."""

import re
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')
pytest.importorskip('mmpretrain')

from torch.nn.modules.batchnorm import _BatchNorm  # noqa: E402

from mmmobilemamba import MobileMamba  # noqa: E402
from mmmobilemamba.deployment import build, calibration, onnx_file, precision, report  # noqa: E402
from mmmobilemamba.deployment.graphs import BackboneGraph  # noqa: E402
from mmmobilemamba.deployment.probes import Recorded  # noqa: E402
from mmmobilemamba.models import set_backend  # noqa: E402

from ..conftest import load_script, noise_for  # noqa: E402
from ..helpers import SHALLOW  # noqa: E402
from .networks import NO_CHECKPOINT, graph_of  # noqa: E402

tool = load_script('tools/deployment/export.py')
reduced_precision = load_script('tools/deployment/reduced_precision.py')


@pytest.fixture(scope='module')
def recorded(classifier):
    """The classifier as a model in float32, with its probes."""
    args = tool.parse_args([*classifier, 'out.onnx'])
    graph, _, image = tool.prepare(args, tool.make_exporter(args))
    return onnx_file.to_onnx(Recorded(graph), image, False)


@pytest.fixture(scope='module')
def exported(recorded):
    """The classifier as a float32 file."""
    return onnx_file.without_probes(recorded, 3)


def once_exported(proto, monkeypatch):
    """Let the tool use ``proto`` instead of exporting, which takes seconds."""

    def to_onnx(graph, image, dynamic_sizes, custom_ops):
        copy = onnx.ModelProto()
        copy.CopyFrom(proto)
        return copy

    monkeypatch.setattr(onnx_file, 'to_onnx', to_onnx)


@pytest.fixture(scope='module')
def images():
    """Eight images of noise, as batches of one."""
    return [noise_for((1, 3, 64, 64), salt).numpy() for salt in range(8)]


@pytest.fixture(scope='module')
def backbone(images):
    """A float32 backbone whose norms have the statistics of the images, so that its maps depend on them."""
    torch.manual_seed(0)
    model = MobileMamba(SHALLOW, out_indices=(0, 1, 2))
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = None
            module.weight.data.fill_(1.0)  # residual branches start at 0
    with torch.no_grad():
        model.train()(torch.from_numpy(np.concatenate(images)))
    model.eval().switch_to_deploy()
    set_backend(model, 'export')
    return onnx_file.to_onnx(BackboneGraph(model), noise_for((2, 3, 64, 64), 0), False)


def errors(proto, other, images):
    """For each map: norm of the difference of two files relative to that of the variation between images."""
    first, second = (
        zip(*(session.run(None, {'image': image}) for image in images))
        for session in (onnx_file.open_session(x.SerializeToString()) for x in (proto, other))
    )
    maps = [(np.stack(a), np.stack(b)) for a, b in zip(first, second)]
    return [np.linalg.norm(a - b) / np.linalg.norm(a - a.mean(0)) for a, b in maps]


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    """A folder with one colourful image for each of two classes."""
    folder = tmp_path_factory.mktemp('pictures')
    for index in range(12):
        pixels = np.random.default_rng(index).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        path = folder / f'class{index // 6}' / f'{index}.png'
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC).save(path)
    return folder


def types_of(proto):
    """Number of constants of each type in a graph, and number of their values."""
    counts, sizes = Counter(), Counter()
    for constant in proto.graph.initializer:
        name = onnx.TensorProto.DataType.Name(constant.data_type)
        counts[name] += 1
        sizes[name] += int(np.prod(constant.dims))
    return counts, sizes


def write_identity(path, about):
    """Write an ONNX file that returns its input."""
    node = onnx.helper.make_node('Identity', ['image'], ['logits'])
    values = [onnx.helper.make_tensor_value_info(name, 1, None) for name in ('image', 'logits')]
    graph = onnx.helper.make_graph([node], 'graph', values[:1], values[1:])
    opset = [onnx.helper.make_opsetid('', onnx_file.OPSET)]
    onnx_file.write(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), path, about)


def metadata(path):
    return onnx_file.read_about(onnx_file.open_session(path))


def test_float16(classifier, recorded, short_timing, tmp_path, monkeypatch, capsys):
    """Weights are float16; inputs, outputs and the nodes around the scan are float32."""
    once_exported(recorded, monkeypatch)
    out = tmp_path / 'network.onnx'
    tool.main([*classifier, str(out), '--fp16'])
    assert [path.name for path in tmp_path.iterdir()] == ['network.onnx']
    text = capsys.readouterr().out
    assert re.search(r'images of the proof: error \d\.\de-0[345], \S+% of \d best classes the same', text)
    assert re.search(r'MiB -> .* MiB; 1 thread, batch 1: \S+ -> \S+ ms, ratio \d', text)
    assert metadata(out)['precision'] == 'float16'
    found = onnx.load(out)
    onnx.checker.check_model(found)
    assert {entry.domain for entry in found.opset_import} == {''}
    _, sizes = types_of(found)
    assert sizes['FLOAT16'] > 5 * sizes['FLOAT'] > 0
    weights = {x.name: x.data_type for x in found.graph.initializer}
    for node in found.graph.node:
        if node.op_type == 'Conv':
            assert weights[node.input[1]] == onnx.TensorProto.FLOAT16
        if node.op_type == 'MatMul':  # inputs of the scan
            assert weights[node.input[1]] == onnx.TensorProto.FLOAT
    # Two casts for each scan, before and after it, and those of inputs and outputs.
    counts = onnx_file.operators(found)
    assert counts['DepthToSpace'] == 3 and counts['Cast'] <= 2 * 3 + 4
    types = {value.type.tensor_type.elem_type for value in [*found.graph.input, *found.graph.output]}
    assert types == {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}


def test_int8(classifier, recorded, pictures, short_timing, tmp_path, monkeypatch, capsys):
    """Weights of convolutions are 8-bit with a scale per channel; nodes around the scan are float32."""
    once_exported(recorded, monkeypatch)
    out = tmp_path / 'network.onnx'
    tool.main([*classifier, str(out), '--int8', str(pictures), '--calibration-images', '8'])
    assert [path.name for path in tmp_path.iterdir()] == ['network.onnx']
    text = capsys.readouterr().out
    assert re.search(rf'8 images of {pictures}: error \d\.\de-0[2-4], \S+% of 8 best classes the same', text)
    assert re.search(r'MiB -> .* MiB; 1 thread, batch 1: \S+ -> \S+ ms, ratio \d', text)
    assert metadata(out)['precision'] == 'int8'
    found = onnx.load(out)
    onnx.checker.check_model(found)
    assert {entry.domain for entry in found.opset_import} == {''}
    assert next(entry.version for entry in found.opset_import) == 18
    weights = {x.name: x for x in found.graph.initializer}
    makers = {name: node for node in found.graph.node for name in node.output}
    slow = precision.faster_in_float32(found.graph)
    assert len(slow) == 1 + 3 * 3  # the first of the stem, and three of each wavelet branch
    convolutions = [node for node in found.graph.node if node.op_type == 'Conv' and node.name not in slow]
    for node in convolutions:
        weight, scale = makers[node.input[1]].input[:2]
        assert makers[node.input[1]].op_type == makers[node.input[0]].op_type == 'DequantizeLinear'
        assert weights[weight].data_type == onnx.TensorProto.INT8
        assert list(weights[scale].dims) == weights[weight].dims[:1]
    counts = onnx_file.operators(found)
    assert len(convolutions) == 61 and counts['Conv'] == 71 and counts['Exp'] == 2 * 3 + 1  # one pixel
    around_scan = [node for node in found.graph.node if node.op_type in ('MatMul', 'LayerNormalization')]
    assert all(weights[node.input[1]].data_type == onnx.TensorProto.FLOAT for node in around_scan)
    _, sizes = types_of(found)
    assert sizes['INT8'] > 2 * sizes['FLOAT']


def test_near_to_float32(backbone, images):
    """Errors of three maps relative to the variation between images: up to 2 % in float16, more in int8."""
    found = errors(backbone, precision.to_float16(backbone), images)
    assert all(1e-4 < error < bound for error, bound in zip(found, (0.003, 0.006, 0.02)))
    found = errors(backbone, precision.to_int8(backbone, images), images)
    assert all(1e-2 < error < bound for error, bound in zip(found, (0.08, 0.2, 0.5)))


def test_calibrated_on_the_images(backbone, images):
    """Ranges depend on the calibration images."""
    dark = precision.to_int8(backbone, [0.01 * image for image in images])
    assert min(errors(backbone, dark, images)) > 1
    name = next(node.output[0] for node in backbone.graph.node if node.op_type == 'Relu')
    probe = onnx.ModelProto()
    probe.CopyFrom(backbone)
    probe.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    session = onnx_file.open_session(probe.SerializeToString())
    largest = max(session.run([name], {'image': np.float32(0.01) * image})[0].max() for image in images)
    scale = next(onnx.numpy_helper.to_array(x) for x in dark.graph.initializer if x.name == f'{name}_scale')
    assert scale == pytest.approx(largest / 255, rel=1e-4)


def test_float16_that_overflows_is_not_written(classifier, tmp_path):
    """It is refused, and an existing file is kept."""
    content = torch.load(classifier[1], weights_only=True)
    content['state_dict']['backbone.stem.0.bn.weight'] *= 1e5  # exceeds 65504
    torch.save(content, tmp_path / 'large.pth')
    out = tmp_path / 'network.onnx'
    out.write_text('of the user')
    with pytest.raises(SystemExit, match=r'network.onnx was not written. What it gives in float16 is no'):
        tool.main([classifier[0], str(tmp_path / 'large.pth'), str(out), '--fp16'])
    assert sorted(path.name for path in tmp_path.iterdir()) == ['large.pth', 'network.onnx']
    assert out.read_text() == 'of the user'


def test_what_is_refused():
    """Non-finite outputs and large float16 errors are refused; int8 errors have no bound."""
    reduced_precision.check_difference(report.Difference(1e-2), 'float16')
    reduced_precision.check_difference(report.Difference(0.5), 'int8')
    with pytest.raises(
        build.DeploymentError, match=r'would differ from float32 by 1.1e-02, and at most 1e-02'
    ):
        reduced_precision.check_difference(report.Difference(1.1e-2), 'float16')
    for kind in ('float16', 'int8'):
        with pytest.raises(build.DeploymentError, match=f'What it gives in {kind} is not finite'):
            reduced_precision.check_difference(report.Difference(float('inf')), kind)


def test_float32_nodes():
    """They range from the convolution before a scan to the norm after it."""

    def node(kind, inputs, output):
        return onnx.helper.make_node(kind, inputs, [output], name=output)

    nodes = [
        node('Conv', ['image', 'w'], 'conv'),
        node('Relu', ['conv'], 'relu'),
        node('Exp', ['relu'], 'decay'),
        node('Scan', ['decay'], 'states'),
        node('Mul', ['relu', 'd'], 'skip'),
        node('Add', ['states', 'skip'], 'sum'),
        node('LayerNormalization', ['sum', 's'], 'norm'),
        node('Mul', ['norm', 'gate'], 'gated'),
        node('Sigmoid', ['image'], 'gate'),
        node('Conv', ['gated', 'w2'], 'out'),
    ]
    found = precision.float32_nodes(onnx.helper.make_graph(nodes, 'graph', [], []))
    assert set(found) == {'relu', 'decay', 'states', 'skip', 'sum', 'norm'}
    # For detectors in int8, also the last layers; the convolution before a scan is not one of them.
    nodes += [
        node('Conv', ['out', 'w3'], 'tower'),
        node('Conv', ['tower', 'w4'], 'scores'),
        node('Sigmoid', ['scores'], 'probabilities'),
        node('TopK', ['probabilities', 'k'], 'best'),
    ]
    assert precision.last_layers(onnx.helper.make_graph(nodes, 'graph', [], [])) == ['scores']


def test_agreement_of_objects():
    """Objects agree if they have the same label, and similar boxes and scores."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40], [50, 50, 60, 60]])
    scores, labels = torch.tensor([0.9, 0.5, 0.1]), torch.tensor([1, 2, 3])
    same = report.objects(boxes, scores, labels, boxes.flip(0) + 1, scores.flip(0) - 0.05, labels.flip(0))
    assert (same.same, same.count) == (2, 2)  # the third has a score below CLEAR_SCORE
    assert same.error == 0  # every box is shifted by more than SAME_BOX permits
    near = report.objects(boxes, scores, labels, boxes.flip(0) + 0.1, scores.flip(0) - 0.05, labels.flip(0))
    assert (near.same, near.error) == (2, pytest.approx(0.05, abs=1e-6))
    for change in (
        dict(boxes=boxes + torch.tensor([[0.0], [11.0], [0.0]])),
        dict(scores=scores - torch.tensor([0.0, 0.2, 0.0])),
        dict(labels=labels + torch.tensor([0, 1, 0])),
    ):
        other = dict(dict(boxes=boxes, scores=scores, labels=labels), **change)
        found = report.objects(boxes, scores, labels, *other.values())
        assert (found.same, found.count, found.agreement) == (1, 2, 0.5)


def test_images_are_spread_over_the_folder(pictures, tmp_path, capsys):
    """Chosen images that cannot be read are reported."""
    names = [path.name for path in calibration.find_images(pictures, ('.png',), 4)[0]]
    assert names == ['0.png', '3.png', '10.png', '7.png']  # the order is 0 to 5, 10, 11, 6 to 9
    assert len(calibration.find_images(pictures, ('.png',), 100)[0]) == 12
    (tmp_path / 'a.png').write_bytes((pictures / 'class0' / '0.png').read_bytes())
    (tmp_path / 'b.png').write_text('no picture')
    args = tool.parse_args([*NO_CHECKPOINT, str(tmp_path / 'out.onnx'), '--int8', str(tmp_path)])
    assert tool.find_images(args) == [tmp_path / 'a.png']
    assert capsys.readouterr().err == f'{tmp_path / "b.png"} was skipped. It cannot be read.\n'


def test_images_are_prepared_as_for_inference(pictures, tmp_path, capsys):
    """Images are prepared by the file's metadata; images that are too large are reported."""
    about = dict(task='segmentation', mean=[10.0] * 3, std=[2.0] * 3, channels='BGR', pad_divisor=1)
    about.update(labels=[], resize=[], size=[80, 96], preprocessed=False)
    args = tool.parse_args([*NO_CHECKPOINT, str(tmp_path / 'network.onnx'), '--int8', str(pictures)])
    paths = tool.find_images(args)
    images = tool.prepare_images(about, args, paths)
    assert len(images) == len(list(images)) == 12
    pixels = np.asarray(Image.open(paths[3]), np.float32)
    batch = list(images)[3]
    assert batch.shape == (1, 3, 80, 96) and not batch[:, :, 64:].any()
    np.testing.assert_allclose(batch[0, :, :64, :64], (pixels[..., ::-1] - 10).transpose(2, 0, 1) / 2)
    with pytest.raises(build.DeploymentError, match=f'None of the images of {pictures} can be used'):
        tool.prepare_images(dict(about, size=[32, 32]), args, paths)
    assert capsys.readouterr().err.count('was skipped. network.onnx takes images of 32 x 32 px') == 12
    with pytest.raises(build.DeploymentError, match='None of the images'):
        tool.prepare_images(dict(about, task='classification'), args, paths)  # padding would affect it


@pytest.mark.parametrize(
    ('files', 'message'),
    [
        (None, r'There is no folder \S+; it must have images for the calibration'),
        ([], r'The folder \S+ has no images, nor have the folders in it; they must end in .bmp, .jpeg'),
        (['notes.txt'], r'The folder \S+ has no images'),
        (['a.png', 'b.png'], r'None of 2 images of \S+ can be read, such as \S+a.png'),
    ],
)
def test_folder_without_images(files, message, tmp_path):
    """An error occurs before the checkpoint is read."""
    folder = tmp_path / 'pictures'
    if files is not None:
        folder.mkdir()
    for name in files or ():
        (folder / name).write_text('no picture')
    with pytest.raises(SystemExit, match=message):
        tool.main([*NO_CHECKPOINT, str(tmp_path / 'out.onnx'), '--int8', str(folder)])


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['out.onnx', '--fp16', '--int8', '.'], '--fp16 and --int8 are two files: run the tool for each'),
        (['out.pt2', '--fp16'], '--fp16 is for files of ONNX, ncnn, '),
        (['out.pt2', '--int8', '.'], '--int8 is for files of ONNX, MNN, '),
        (['out.onnx', '--int8', '.', '--calibration-images', '0'], '--calibration-images must be 1 or more'),
        (['out.onnx', '--calibration-images', '9'], '--calibration-images goes with --int8'),
    ],
)
def test_conflicts(arguments, message, capsys):
    with pytest.raises(SystemExit):
        tool.main([*NO_CHECKPOINT, *arguments])
    assert message in capsys.readouterr().err


def test_evaluation_names_the_precision(tmp_path, monkeypatch, capsys):
    evaluation = load_script('tools/deployment/evaluate.py')
    monkeypatch.setattr(evaluation, 'evaluate', lambda config, work_dir, **kwargs: {'accuracy/top1': 95.0})
    config = tmp_path / 'config.py'
    config.write_text('model = dict(data_preprocessor=dict(mean=[0.0]))')
    for about, engine in (
        ({}, 'ONNX Runtime'),
        (dict(precision='float32'), 'ONNX Runtime'),
        (dict(precision='int8'), 'ONNX Runtime, int8'),
    ):
        about = dict(about, task='classification', preprocessed=False)
        write_identity(tmp_path / 'network.onnx', about)
        evaluation.main([str(config), str(tmp_path / 'network.onnx')])
        assert f'| {engine} | 95.0000 |' in capsys.readouterr().out


@pytest.mark.deploy
@pytest.mark.parametrize('name', ['retinanet', 'mask_rcnn', 'sem_fpn'])
def test_detectors_and_segmentors(name, tmp_path):
    """Nodes after the heads stay in float32, and scores and pixels hardly change."""
    pytest.importorskip('mmdet')
    pytest.importorskip('mmseg')
    _, graph, about = graph_of(name, tmp_path)
    proto = onnx_file.to_onnx(graph, noise_for((2, 3, 128, 160), 0), False)
    images = [noise_for((1, 3, 128, 160), salt).numpy() for salt in range(4)]
    for kind in ('float16', 'int8'):
        found = precision.to_float16(proto) if kind == 'float16' else precision.to_int8(proto, images)
        onnx.checker.check_model(found)
        kept = set(precision.float32_nodes(found.graph))
        quantised = [node for node in found.graph.node if node.op_type.endswith('zeLinear')]
        assert len(quantised) > 100 if kind == 'int8' else not quantised
        behind = [node.name for node in found.graph.node if node.op_type in precision.SENSITIVE]
        assert len(behind) >= 4 and kept.issuperset(behind)
        difference = report.Pair(about['task'], proto, found).difference(images)
        # RetinaNet's random scores are near 0 and 1, with steep slopes between them.
        assert 0 < difference.error < (1e-2 if kind == 'float16' else 0.6 if name == 'retinanet' else 0.1)
        assert difference.count > 100 and difference.agreement > (0.97 if kind == 'float16' else 0.7)
