"""The page's choice between WebGPU and WebAssembly: its module in node."""

import json
import shutil
import subprocess

import pytest

from ..conftest import ROOT

NODE = shutil.which('node')
pytestmark = pytest.mark.skipif(NODE is None, reason='node is not installed')
MODULE = (ROOT / 'tools/deployment/web/provider.js').as_uri()
GPU = dict(limits=dict(maxStorageBuffersPerShaderStage=8))


def run(code, *arguments):
    """Evaluate an expression of the module ``m`` and arguments ``a``; returns its value or error message."""
    code = (
        f"const m = await import('{MODULE}'), a = process.argv.slice(1).map(JSON.parse); let found;"
        f'try {{ found = {code}; }} catch (error) {{ found = error.message; }}'
        'console.log(JSON.stringify(found));'
    )
    command = [NODE, '--no-warnings', '--input-type=module', '-e', code, *map(json.dumps, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if 'import statement outside a module' in result.stderr:
        pytest.skip('this node takes no modules without a package.json')
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def choose(wish, *nodes, adapter=GPU, about=None, shape=(8, 8, 2, 2)):
    """The choice for a file with these nodes: operator and other properties."""
    nodes = [dict(dict(inputs=['x', 'w'], outputs=['y'], integers={}), **node) for node in nodes]
    code = "m.choose(a[0], { nodes: a[1], shapes: new Map([['w', a[2]]]) }, a[3], a[4])"
    return run(code, wish, nodes, shape, about or {}, adapter)


def split(count):
    return dict(operator='Split', outputs=[f'y{index}' for index in range(count)])


WIDE = 'the file has a Split into 8, but this GPU takes 7 at most; export it anew'
LOOP = 'the file has a loop (Scan), which WebGPU lacks; export it for one size, without --dynamic'
WRONG = 'the file has a ConvTranspose of groups, which onnxruntime-web computes wrongly in WebGPU'
HALF = 'the file is of float16; this page runs float32 alone in WebGPU'


@pytest.mark.parametrize(
    ('nodes', 'options', 'why'),
    [
        ([], {}, None),
        ([split(7)], {}, None),
        ([], dict(about=dict(precision='float32')), None),
        ([split(8)], {}, WIDE),
        ([split(8)], dict(adapter=dict(limits=dict(maxStorageBuffersPerShaderStage=10))), None),
        ([dict(operator='Relu'), dict(operator='Scan')], {}, LOOP),
        ([], dict(about=dict(precision='float16')), HALF),
        ([], dict(adapter=None), 'this browser gives no GPU (navigator.gpu.requestAdapter)'),
    ],
)
def test_choice(nodes, options, why):
    """WebGPU is chosen if supported, otherwise requesting it is an error; WebAssembly always works."""
    found = choose('auto', *nodes, **options)
    assert found == dict(provider='wasm' if why else 'webgpu', why=why)
    found = choose('webgpu', *nodes, **options)
    expected = f'Not in WebGPU: {why}. Or choose WebAssembly.' if why else dict(provider='webgpu', why=None)
    assert found == expected
    assert choose('wasm', *nodes, **options) == dict(provider='wasm', why='chosen by hand')


@pytest.mark.parametrize(
    ('nodes', 'about', 'why'),
    [
        (
            [dict(operator='Relu'), dict(operator='RoiAlign')],
            {},
            'files with RoiAlign were not compared there',
        ),
        ([], dict(preprocessed=True), 'files with the normalisation inside were not compared there'),
    ],
)
def test_what_was_not_compared(nodes, about, why):
    """WebGPU is used only if requested."""
    found = choose('auto', *nodes, about=about)
    assert found == dict(provider='wasm', why=f'{why}; choose it by hand')
    assert choose('webgpu', *nodes, about=about) == dict(provider='webgpu', why=None)


@pytest.mark.parametrize(
    ('group', 'shape', 'wrong'),
    [
        (1, (8, 1, 2, 2), False),
        (8, (8, 1, 2, 2), False),
        (4, (8, 1, 2, 2), True),
        (2, (8, 1, 2, 2), True),
        (4, (8, 2, 2, 2), False),
        (2, (8, 4, 2, 2), False),
    ],
)
def test_transposed_convolutions(group, shape, wrong):
    """The cases executed in ``test_web_gpu.py``."""
    found = choose('auto', dict(operator='ConvTranspose', integers=dict(group=group)), shape=shape)
    assert found == dict(provider='wasm' if wrong else 'webgpu', why=WRONG if wrong else None)


@pytest.mark.parametrize('name', ['auto', 'webgpu', 'wasm'])
def test_names(name):
    assert run('m.providerOf(a[0])', name) == name
    assert run('m.providerOf(a[0])', None) == 'auto'
    assert run('m.providerOf(a[0])', f'{name}x') == f'?provider={name}x must be auto or webgpu or wasm.'


def test_gpu_in_words():
    assert run('m.gpuInWords(a[0])', dict(info=dict(vendor='intel', architecture='xe'))) == 'intel xe'
    assert run('m.gpuInWords(a[0])', dict(info=dict(vendor='', architecture=''))) == 'unnamed GPU'
