"""The export tool: files of standard operators whose results equal PyTorch's, and errors."""

import io
import json
from contextlib import redirect_stdout

import numpy as np
import pytest
import torch

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')
pytest.importorskip('mmpretrain')

from mmmobilemamba.deployment import build, onnx_file, proof  # noqa: E402
from mmmobilemamba.deployment.probes import NO_PROBE  # noqa: E402
from mmmobilemamba.utils import read_config  # noqa: E402

from ..conftest import ROOT, load_script, noise_for  # noqa: E402
from .networks import NO_CHECKPOINT, checkpoint_of, config_of, graph_of  # noqa: E402

tool = load_script('tools/deployment/export.py')
graph_exporter = load_script('tools/deployment/graph_exporter.py')


def metadata(path):
    properties = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    return json.loads(properties['mmmobilemamba'])


OPTIONS = ['--size', '96', '80', '--topk', '3']


@pytest.fixture(scope='module')
def fixed(classifier, tmp_path_factory):
    """A file of fixed size, what the tool printed, and what PyTorch's exporter made, with its probes."""
    out, made, to_onnx = tmp_path_factory.mktemp('fixed') / 'network.onnx', [], onnx_file.to_onnx

    def kept(*args):
        made.append(to_onnx(*args))
        return made[-1]

    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as said:
        patch.setattr(onnx_file, 'to_onnx', kept)
        tool.main([*classifier, str(out), *OPTIONS])
    return out, said.getvalue(), made[0]


def test_fixed_size(fixed):
    out, said, _ = fixed
    assert 'network.onnx: classification' in said
    assert sorted(path.name for path in out.parent.iterdir()) == ['network.onnx']
    about = metadata(out)
    assert about['size'] == [96, 80] and about['task'] == 'classification' and len(about['labels']) == 10
    session = onnx_file.open_session(out)
    logits, scores, labels = session.run(None, {'image': noise_for((3, 3, 96, 80), 0).numpy()})
    assert logits.shape == (3, 10) and scores.shape == labels.shape == (3, 3)
    np.testing.assert_array_equal(labels, np.argsort(-logits, axis=1)[:, :3])
    assert {entry.domain for entry in onnx.load(out).opset_import} == {''}
    assert str(ROOT).encode() not in out.read_bytes()  # the exporter's metadata are removed
    assert not any(node.metadata_props or node.doc_string for node in onnx.load(out).graph.node)


def test_dynamic_size_with_preprocessing(classifier, tmp_path):
    """Any size, including odd ones, for uint8 images."""
    out = tmp_path / 'network.onnx'
    tool.main([*classifier, str(out), '--dynamic', '--preprocess'])
    assert metadata(out)['size'] is None and metadata(out)['preprocessed']
    config = read_config(classifier[0])
    model = build.load_model(config, classifier[1])
    session = onnx_file.open_session(out)
    for shape in ((1, 64, 64, 3), (2, 33, 71, 3), (1, 1, 1, 3)):
        picture = torch.randint(0, 256, shape, dtype=torch.uint8)
        inputs = dict(inputs=picture.flip(3).permute(0, 3, 1, 2), data_samples=None)
        with torch.no_grad():
            expected = model(model.data_preprocessor(inputs)['inputs'], mode='tensor')
        found = torch.from_numpy(session.run(['logits'], {'image': picture.numpy()})[0])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(('channels', 'preprocessed'), [(1, False), (4, True)])
def test_other_channels(channels, preprocessed, classifier, tmp_path):
    """Images of one or four channels, normalised inside or outside the file."""
    config = read_config(classifier[0])
    config.model.backbone.in_channels = channels
    config.data_preprocessor.update(mean=[9.0] * channels, std=[2.0] * channels, to_rgb=False)
    config.dump(tmp_path / 'config.py')
    state_dict = torch.load(classifier[1])['state_dict']
    (stem,) = (key for key in state_dict if key.endswith('stem.0.conv.weight'))
    state_dict[stem] = state_dict[stem][:, :1].repeat(1, channels, 1, 1)
    torch.save(dict(state_dict=state_dict), tmp_path / 'network.pth')
    out = tmp_path / 'network.onnx'
    flags = ['--preprocess'] * preprocessed
    tool.main([str(tmp_path / 'config.py'), str(tmp_path / 'network.pth'), str(out), '--size', '64', *flags])
    assert metadata(out)['channels'] == {1: 'gray', 4: 'BGRA'}[channels]
    image = torch.randint(0, 256, (1, channels, 64, 64), dtype=torch.uint8)
    normal = (image.float() - 9) / 2
    fed = image.permute(0, 2, 3, 1) if preprocessed else normal
    found = onnx_file.open_session(out).run(['logits'], {'image': fed.contiguous().numpy()})[0]
    model = build.load_model(config, tmp_path / 'network.pth')
    with torch.no_grad():
        expected = model(normal, mode='tensor')
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-4)


def test_backbone_as_program(classifier, tmp_path):
    out = tmp_path / 'network.pt2'
    tool.main([*classifier, str(out), '--backbone', '--cfg-options', 'model.backbone.out_indices=[0,2]'])
    files = {'mmmobilemamba.json': ''}
    program = torch.export.load(out, extra_files=files)
    assert json.loads(files['mmmobilemamba.json'])['task'] == 'backbone'
    first, last = program.module()(noise_for((3, 3, 64, 64), 0))
    assert first.shape == (3, 48, 4, 4) and last.shape == (3, 80, 1, 1)


def test_detector(tmp_path):
    """NMS is inside the file, in standard operators; outputs for the comparison are removed."""
    pytest.importorskip('mmdet')
    _, graph, about = graph_of('retinanet', tmp_path)
    about.update(size=[96, 96], preprocessed=False)
    out = tmp_path / 'network.onnx'
    run = graph_exporter.OnnxExporter(None).make(graph, about, noise_for((2, 3, 96, 96), 0), out)
    proto = onnx.load(out)
    assert onnx_file.operators(proto)['NonMaxSuppression'] == 1
    assert [output.name for output in proto.graph.output] == graph.output_names
    image = noise_for((3, 3, 96, 96), 1)
    outputs, probed = run(image)
    assert (outputs[1] > 0).sum() > 10
    assert proof.largest_error(graph, image, outputs, probed) < 1e-4
    for name, found in zip(graph.output_names, onnx_file.run(onnx_file.open_session(out), image)):
        expected = outputs[graph.output_names.index(name)]
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-3)
    for index, values in enumerate((*outputs, *probed)):
        changed = [x.clone() for x in (*outputs, *probed)]
        changed[index] = 1.001 * values if values.is_floating_point() else values.roll(1, 1)
        error = proof.largest_error(graph, image, changed[:3], changed[3:])
        assert error > 1e-4 or not values.any(), index


def test_what_differs_is_not_written(classifier, fixed, tmp_path, monkeypatch):
    """An existing file is kept."""
    monkeypatch.setattr(onnx_file, 'to_onnx', lambda *args: fixed[2])
    out = tmp_path / 'network.onnx'
    out.write_text('of the user')
    monkeypatch.setattr(proof, 'TOLERANCE', 1e-12)
    with pytest.raises(SystemExit, match=r'network.onnx was not written. It would differ from PyTorch by'):
        tool.main([*classifier, str(out), *OPTIONS])
    assert [path.read_text() for path in tmp_path.iterdir()] == ['of the user']


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--size', '0'], 'too small: 1 px a side at least'),
        (['--cfg-options', 'model.backbone.arch=t4'], 'was not exported'),
    ],
)
def test_cannot_be_exported(classifier, tmp_path, options, message):
    with pytest.raises(SystemExit, match=message):
        tool.main([*classifier, str(tmp_path / 'network.onnx'), *options])
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
    """Said before the network is read."""

    def refuse(**kwargs):
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr(tool.tempfile, 'TemporaryDirectory', refuse)
    message = rf'a\.onnx was not written\. The folder {tmp_path} cannot be written to: Permission denied\.'
    with pytest.raises(SystemExit, match=message):
        tool.main([*NO_CHECKPOINT, str(tmp_path / 'a.onnx')])


def test_weights_in_a_file_of_their_own(tmp_path, monkeypatch):
    """As above 2 GB: both files replace those of an earlier export."""
    monkeypatch.setattr(onnx_file, 'LARGEST', 0)
    weight = onnx.numpy_helper.from_array(np.arange(3000, dtype=np.float32), 'weight')
    output = onnx.helper.make_tensor_value_info('output', onnx.TensorProto.FLOAT, [3000])
    node = onnx.helper.make_node('Identity', ['weight'], ['output'])
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], 'graph', [], [output], [weight]),
        opset_imports=[onnx.helper.make_opsetid('', onnx_file.OPSET)],
        ir_version=10,
    )
    folder, target = tmp_path / 'temporary', tmp_path / 'a.onnx'
    folder.mkdir()
    for path in (target, onnx_file.weights_of(target)):
        path.write_text('of an earlier export')
    onnx_file.write(model, folder / 'a.onnx', {})
    onnx_file.move(folder / 'a.onnx', target)
    assert not list(folder.iterdir())
    assert target.stat().st_size < 1000 and onnx_file.weights_of(target).stat().st_size == 12000
    (found,) = onnx_file.open_session(target).run(None, {})
    assert np.array_equal(found, np.arange(3000))


def test_a_detector_before_training(tmp_path):
    """It is refused, and an existing file is kept."""
    pytest.importorskip('mmdet')
    config, checkpoint = tmp_path / 'config.py', checkpoint_of('retinanet', tmp_path)
    config_of('retinanet').dump(config)
    content = torch.load(checkpoint, weights_only=False)
    content['state_dict']['bbox_head.retina_cls.weight'].mul_(1e-9)
    torch.save(content, checkpoint)
    before = sorted(tmp_path.iterdir())
    for name in ('network.onnx', 'network.pt2'):
        with pytest.raises(SystemExit, match=r'RetinaHead gives the same score, 0\.5000, to all boxes'):
            tool.main([str(config), str(checkpoint), str(tmp_path / name), '--size', '96'])
    assert sorted(tmp_path.iterdir()) == before


class Classes(torch.nn.Module):
    """A segmentor of two classes."""

    output_names = ['classes']

    def forward(self, image, probe=NO_PROBE):
        (logits,) = probe.numbers(torch.stack([image.sum(1), image.prod(1)], dim=1))
        return (probe.best(logits, logits.argmax(1, keepdim=True))[:, 0].int(),)


def test_programs_are_compared_by_probes(tmp_path):
    """The file only returns classes; a program of the same network with probes is compared."""
    graph, image = Classes(), torch.randn(2, 3, 8, 8)
    run = graph_exporter.ProgramExporter(None).make(
        graph, dict(task='segmentation', size=[8, 8]), image, tmp_path / 'out.pt2'
    )
    (classes,), (logits, index) = run(image)
    assert torch.equal(logits.argmax(1), classes.long()) and torch.equal(index[:, 0].int(), classes)
    assert proof.largest_error(graph, image, [classes], [logits, index]) == 0
    assert proof.largest_error(graph, image, [1 - classes], [logits, index]) > 0.5
    assert len(torch.export.load(tmp_path / 'out.pt2').module()(image)) == 1


def test_what_pytorch_cannot_export_is_refused():
    """Any error of the exporter becomes a DeploymentError."""

    class Odd(torch.nn.Module):
        def forward(self, image, probe=NO_PROBE):
            return (image * len(image.unique()),)

    with pytest.raises(build.DeploymentError, match=r'^PyTorch .* cannot export it: .*\.$'):
        onnx_file.to_onnx(Odd(), torch.rand(2, 3, 8, 8), dynamic_sizes=False)

    class Halves(torch.nn.Module):
        def forward(self, image, probe=NO_PROBE):
            return (image.unflatten(3, (-1, 2)).sum(4),)

    about = dict(size=None, preprocessed=False, mean=[0.0] * 3, std=[1.0] * 3)
    with pytest.raises(
        build.DeploymentError, match=r'cannot run it on 2x3x81x95: .* Give --size HEIGHT WIDTH'
    ):
        tool.compare(Halves(), lambda image: (Halves()(image), []), about, (64, 64))


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([*NO_CHECKPOINT, 'out.txt'], 'OUT must end in .onnx, .pt2, .ncnn, '),
        ([*NO_CHECKPOINT, 'nowhere/out.onnx'], 'there is no folder nowhere'),
        ([*NO_CHECKPOINT, 'out.onnx', '--size', '1', '2', '3'], '--size takes one or two numbers'),
        ([*NO_CHECKPOINT, 'out.pt2', '--dynamic'], '--dynamic is for files of ONNX'),
        ([*NO_CHECKPOINT, 'out.onnx', '--topk', '0'], '--topk must be 1 or more'),
    ],
)
def test_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit):
        tool.main(arguments)
    assert message in capsys.readouterr().err


def test_operators_of_other_domains_are_refused():
    node = onnx.helper.make_node('Gelu', ['x'], ['y'], domain='com.microsoft')
    graph = onnx.helper.make_graph([node], 'graph', [], [])
    with pytest.raises(RuntimeError, match=r'Gelu of com.microsoft is no standard operator'):
        onnx_file.operators(onnx.helper.make_model(graph))
