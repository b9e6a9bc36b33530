"""WebGPU in the browser demo, on a software adapter: the results of WebAssembly, or an error."""

import re

import numpy as np
import pytest
import torch

onnx = pytest.importorskip('onnx')
onnxruntime = pytest.importorskip('onnxruntime')
pytest.importorskip('selenium.webdriver', reason='needs selenium, chromium and chromedriver')

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from selenium.webdriver.support.ui import Select  # noqa: E402

from ..conftest import load_script  # noqa: E402
from ..test_tools.test_infer import make_file, picture_of  # noqa: E402
from .browser import Page, calibrate, compare, is_close, serving, smooth_picture  # noqa: E402

pytestmark = pytest.mark.deploy
SOFTWARE = ('--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader')
ADAPTER = "const { findAdapter } = await import('/provider.js'); return Boolean(await findAdapter());"


@pytest.fixture(scope='module')
def served(tmp_path_factory):
    """The page in a browser with WebGPU, and the address of a model."""
    path = tmp_path_factory.mktemp('models') / 'x.onnx'
    with serving(files=[make_file(path, 'backbone')]) as address:
        page = Page(address, *SOFTWARE)
        try:
            if not page.open().evaluate(ADAPTER):
                pytest.skip('this browser has no adapter of WebGPU in software')
            yield page
        finally:
            page.close()


def runs_on(page):
    """The provider shown by the page, without the number of threads and the GPU."""
    return re.sub(r' \(.*?\)', '', page('provider-name').text, count=1)


def exported(name, folder, dynamic=False):
    """Export a small network of ``networks.py``, with random weights."""
    for codebase in ('mmpretrain', 'mmdet', 'mmseg'):
        pytest.importorskip(codebase)
    from mmmobilemamba.deployment import build, onnx_file

    from . import networks

    config, checkpoint = networks.config_of(name), networks.checkpoint_of(name, folder)
    about = build.describe(config, build.task_of(build.load_model(config, checkpoint)))
    about.update(size=build.input_size(about), preprocessed=False)
    calibrate(config, checkpoint, about['size'])
    graph = build.make_graph(build.load_model(config, checkpoint), about['task']).eval()
    proto = onnx_file.to_onnx(graph, torch.zeros(2, 3, *about['size']), dynamic_sizes=dynamic)
    onnx_file.write(proto, folder / f'{name}.onnx', about)
    return folder / f'{name}.onnx'


@pytest.mark.parametrize('name', ['classifier', 'retinanet', 'sem_fpn'])
def test_finds_the_same(served, tmp_path, name):
    """WebGPU is chosen automatically; results equal those of infer.py and WebAssembly for several sizes."""
    page, path = served.open(), exported(name, tmp_path)
    if name == 'sem_fpn':  # its scan has more splits than a GPU has buffers
        assert max(len(node.output) for node in onnx.load(path).graph.node if node.op_type == 'Split') == 7
    gpu, expected = compare(page, path, smooth_picture(333, 201), tmp_path, threshold=0.05)
    assert runs_on(page) == 'Runs on WebGPU.'
    Select(page('provider')).select_by_value('wasm')
    page.settle()
    cpu = page.results()[next(iter(page.results()))]
    assert runs_on(page) == 'Runs on WebAssembly, not WebGPU: chosen by hand.'
    for other in (expected, cpu):
        assert len(gpu) == len(other) > (20 if name == 'retinanet' else 1)
        if name == 'retinanet':  # the order of nearly equal scores may differ
            same = [any(is_close(one, entry) for one in gpu) for entry in other]
            assert sum(same) >= 0.95 * len(same)
        else:
            assert all(map(is_close, gpu, other))


def test_loops_are_refused(served, tmp_path):
    """A file with dynamic sizes runs in WebAssembly; choosing WebGPU is an error that says what to do."""
    page, path = served.open(), exported('classifier', tmp_path, dynamic=True)
    found, expected = compare(page, path, smooth_picture(64, 64), tmp_path)
    assert all(map(is_close, found, expected))
    reason = 'the file has a loop (Scan), which WebGPU lacks; export it for one size, without --dynamic'
    assert runs_on(page) == f'Runs on WebAssembly, not WebGPU: {reason}.'
    Select(page('provider')).select_by_value('webgpu')
    page.settle()
    assert page('message').text == f'Not in WebGPU: {reason}. Or choose WebAssembly.'
    assert runs_on(page).startswith('Runs on WebAssembly')


@pytest.mark.parametrize(
    ('provider', 'words'),
    [('webgpu', 'Runs on WebGPU'), ('wasm', 'Runs on WebAssembly'), ('auto', 'Runs on WebGPU')],
)
def test_provider_by_address(served, tmp_path, provider, words):
    page = served.open(f'?model=models/x.onnx&provider={provider}')
    page.wait_for(lambda: runs_on(page).startswith('Runs on'))
    assert runs_on(page).startswith(words) and page('provider').get_attribute('value') == provider
    assert ('WebGPU, ' in page('facts').get_attribute('textContent')) == (provider != 'wasm')
    picture_of(8, 8).save(tmp_path / 'a.png')
    page.choose('picture', tmp_path / 'a.png')
    assert page.results() == dict(maps=dict(stage0=[3, 8, 8]))


def test_unknown_provider_by_address(served):
    page = served.open('?model=models/x.onnx&provider=cuda')
    assert page('message').text == '?provider=cuda must be auto or webgpu or wasm.'


def test_without_a_gpu(served, tmp_path):
    """WebAssembly is chosen automatically, with the reason; choosing WebGPU is an error."""
    reason = 'this browser gives no GPU (navigator.gpu.requestAdapter)'
    page = Page(served.address)
    try:
        page.open().choose('model', make_file(tmp_path / 'x.onnx', 'backbone'))
        assert runs_on(page) == f'Runs on WebAssembly, not WebGPU: {reason}.'
        page.open('?provider=webgpu').choose('model', tmp_path / 'x.onnx')
        assert page('message').text == f'Not in WebGPU: {reason}. Or choose WebAssembly.'
    finally:
        page.close()


TRANSPOSED = [(1, (8, 1)), (8, (8, 1)), (4, (8, 1)), (2, (8, 1)), (4, (8, 2)), (2, (8, 4))]  # group, weight
RUN = """
const ort = await import('/ort/ort.webgpu.min.mjs');
Object.assign(ort.env.wasm, { numThreads: 1, proxy: true });
const options = { executionProviders: ['webgpu'], logSeverityLevel: 3 };
const session = await ort.InferenceSession.create(Uint8Array.from(a[0]), options);
const outputs = await session.run({ x: new ort.Tensor('float32', Float32Array.from(a[1]), a[2]) });
return Object.fromEntries(Object.entries(outputs).map(([name, { data }]) => [name, Array.from(data)]));
"""


def test_transposed_convolutions(served):
    """In this version of onnxruntime-web, exactly those refused by provider.js give wrong results."""
    random = np.random.default_rng(0)
    weights = [random.standard_normal((*shape, 2, 2), np.float32) for _, shape in TRANSPOSED]
    nodes = [
        helper.make_node('ConvTranspose', ['x', f'w{i}'], [f'y{i}'], group=group, strides=[2, 2])
        for i, (group, _) in enumerate(TRANSPOSED)
    ]
    graph = helper.make_graph(
        nodes,
        'transposed',
        [helper.make_tensor_value_info('x', TensorProto.FLOAT, [1, 8, 5, 5])],
        [helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None) for node in nodes],
        [numpy_helper.from_array(weight, f'w{i}') for i, weight in enumerate(weights)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)], ir_version=9)
    content, x = model.SerializeToString(), random.standard_normal((1, 8, 5, 5), np.float32)
    expected = onnxruntime.InferenceSession(content).run(None, {'x': x})
    found = served.open().evaluate(RUN, list(content), x.ravel().tolist(), list(x.shape))
    errors = [np.abs(np.array(found[f'y{i}']) - y.ravel()).max() for i, y in enumerate(expected)]
    assert [error > 1 for error in errors] == [False, False, True, True, False, False]
    assert np.delete(errors, [2, 3]).max() < 1e-5


def test_measures(served, tmp_path, capsys):
    """The script for the figures in the docs: the median of all runs but the first, and the provider."""
    script = load_script('tools/deployment/web/measure.py')
    path = make_file(tmp_path / 'x.onnx', 'backbone')
    script.main([str(path), '--runs', '4', *(f'--switch={switch}' for switch in SOFTWARE)])
    line = capsys.readouterr().out
    assert re.fullmatch(
        r'x\.onnx, 8 x 8 px: [\d.]+ ms \(least [\d.]+, first run \d+\)\. Runs on WebGPU \(.+\)\.\n', line
    )
    with pytest.raises(SystemExit, match='this browser gives no GPU'):
        script.main([str(path), '--provider', 'webgpu'])
