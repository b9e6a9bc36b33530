"""The kernels as operators of ONNX Runtime: equal to the references, and their errors."""

import ctypes
import re
import shlex
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F

from mmmobilemamba.ops.cpu.build import BuildError, find_compiler, find_library
from mmmobilemamba.ops.cpu.recipe import FLAGS, SOURCES, UNITS
from mmmobilemamba.ops.haar import haar_dwt_torch, haar_idwt_torch
from mmmobilemamba.ops.norm_gate import norm_gate_torch
from mmmobilemamba.ops.selective_scan.naive import selective_scan_naive

from ..conftest import ROOT, relative_error

onnx = pytest.importorskip('onnx')
onnxruntime = pytest.importorskip('onnxruntime')

EPS = 0.02
HEADER = 'onnxruntime_c_api.h'
FIELDS = dict(
    Api=(
        'CreateStatus CreateCustomOpDomain CustomOpDomain_Add AddCustomOpDomain GetTensorMutableData '
        'GetDimensionsCount GetDimensions GetTensorTypeAndShape KernelInfoGetAttribute_float '
        'KernelContext_GetInput KernelContext_GetOutput ReleaseStatus ReleaseTensorTypeAndShapeInfo '
        'KernelContext_ParallelFor'
    ),
    ApiBase='GetApi GetVersionString',
    CustomOp=(
        'version CreateKernel GetName GetExecutionProviderType GetInputType GetInputTypeCount GetOutputType '
        'GetOutputTypeCount KernelCompute KernelDestroy GetInputCharacteristic GetOutputCharacteristic '
        'GetInputMemoryType GetVariadicInputMinArity GetVariadicInputHomogeneity GetVariadicOutputMinArity '
        'GetVariadicOutputHomogeneity CreateKernelV2 KernelComputeV2 InferOutputShapeFn GetStartVersion '
        'GetEndVersion'
    ),
)


@pytest.fixture(scope='module')
def library():
    """Path of the library (str)."""
    try:
        return str(find_library())
    except BuildError as error:
        pytest.skip(str(error))


def session_of(library, name, inputs, threads=1, **attributes):
    """A session of one node of the operator ``name``; its inputs take any shape of the rank of ``inputs``."""
    names = [f'in{index}' for index in range(len(inputs))]
    kind = onnx.TensorProto.FLOAT
    values = [
        onnx.helper.make_tensor_value_info(each, kind, [None] * x.ndim) for each, x in zip(names, inputs)
    ]
    output = onnx.helper.make_tensor_value_info('out', kind, None)
    node = onnx.helper.make_node(name, names, ['out'], domain='mmmobilemamba', **attributes)
    opsets = [onnx.helper.make_opsetid('', 18), onnx.helper.make_opsetid('mmmobilemamba', 1)]
    graph = onnx.helper.make_graph([node], 'graph', values, [output])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    options.register_custom_ops_library(library)
    content = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=['CPUExecutionProvider'])


def run(session, inputs):
    feed = {f'in{index}': x.numpy() for index, x in enumerate(inputs)}
    return torch.from_numpy(session.run(None, feed)[0])


def scan_inputs(batch=2, size=(5, 7), channels=40, rank=3):
    """u (N, *size, E), x_dbl (N, *size, 2 * (R + 2)) and the weights of the scan."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape):
        return torch.randn(shape, generator=generator)

    u, x_dbl = noise(batch, *size, channels), noise(batch, *size, 2 * (rank + 2))
    dt_weight, D, dt_bias = noise(2, channels, rank), noise(2, channels), noise(2, channels)
    return [u, x_dbl, dt_weight, -noise(2, channels).exp(), D, dt_bias]


def haar_inputs(kernel, size):
    generator = torch.Generator().manual_seed(0)
    shapes = (2, *size, 16), (kernel, kernel, 64), (2, *size, 16)
    return [torch.randn(shape, generator=generator) for shape in shapes]


@pytest.mark.parametrize('threads', [1, 2])
@pytest.mark.parametrize('size', [(5, 7), (1,), (64,)])
def test_scan(library, size, threads):
    inputs = scan_inputs(size=size)
    u, x_dbl, *weights = inputs
    steps = x_dbl.view(len(u), -1, 2, x_dbl.shape[-1] // 2)
    expected = selective_scan_naive(u.view(len(u), -1, u.shape[-1]), steps, *weights).view(u.shape)
    found = run(session_of(library, 'SelectiveScan', inputs, threads), inputs)
    assert found.shape == u.shape and relative_error(found, expected) < 1e-5


@pytest.mark.parametrize('shape', [(2, 3, 5, 20), (35, 33)])
def test_gated_norm(library, shape):
    y, z = torch.randn(shape), torch.randn(shape)
    weight, bias = torch.randn(shape[-1]), torch.randn(shape[-1])
    inputs = [y, weight, bias, z]
    found = run(session_of(library, 'NormGate', inputs, eps=EPS), inputs)
    assert relative_error(found, norm_gate_torch(y, weight, bias, EPS, z)) < 1e-5


@pytest.mark.parametrize(('kernel', 'size'), [(3, (4, 6)), (5, (5, 3)), (7, (1, 1))])
def test_wavelet_filter(library, kernel, size):
    inputs = haar_inputs(kernel, size)
    x, weight, base = (inputs[0].permute(0, 3, 1, 2), inputs[1], inputs[2].permute(0, 3, 1, 2))
    bands = F.conv2d(haar_dwt_torch(x), weight.permute(2, 0, 1)[:, None], padding=kernel // 2, groups=64)
    expected = haar_idwt_torch(bands, base).permute(0, 2, 3, 1)
    found = run(session_of(library, 'HaarFilter', inputs, threads=2), inputs)
    assert relative_error(found, expected) < 1e-5


def test_concurrent_runs(library):
    """Several threads call one session at once, each with another image."""
    all_inputs = [[x * (index + 1) for x in scan_inputs()] for index in range(8)]
    session = session_of(library, 'SelectiveScan', all_inputs[0], threads=2)
    expected = [run(session, inputs) for inputs in all_inputs]
    with ThreadPoolExecutor(4) as pool:
        for found, right in zip(pool.map(lambda inputs: run(session, inputs), all_inputs * 5), expected * 5):
            assert torch.equal(found, right)


def test_empty_batch(library):
    for name, inputs in (('SelectiveScan', scan_inputs(batch=0)), ('HaarFilter', haar_inputs(3, (4, 4)))):
        inputs = [x[:0] if x.ndim == 4 else x for x in inputs]
        assert run(session_of(library, name, inputs), inputs).shape == inputs[0].shape


@pytest.mark.parametrize(
    ('name', 'inputs', 'wrong', 'message'),
    [
        ('SelectiveScan', scan_inputs(), 1, 'mmmobilemamba:SelectiveScan expects u'),
        ('SelectiveScan', scan_inputs(), 3, 'mmmobilemamba:SelectiveScan expects u'),
        ('HaarFilter', haar_inputs(3, (4, 6)), 1, 'HaarFilter expects x .* with k of 3, 5 or 7'),
        ('HaarFilter', haar_inputs(3, (4, 6)), 2, 'HaarFilter expects x'),
        (
            'NormGate',
            [torch.ones(2, 9), torch.ones(9), torch.ones(9), torch.ones(2, 9)],
            3,
            'NormGate expects y',
        ),
    ],
)
def test_wrong_shapes(library, name, inputs, wrong, message):
    """They are refused instead of reading beyond the end of a tensor."""
    attributes = dict(eps=EPS) if name == 'NormGate' else {}
    session = session_of(library, name, inputs, **attributes)
    inputs = [x[:1] if index == wrong else x for index, x in enumerate(inputs)]
    with pytest.raises(Exception, match=message):
        run(session, inputs)


def register(library, get_api):
    """Status of the function that ONNX Runtime calls, for one of version 1.16.3 with this ``GetApi``."""
    get_api = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)(get_api)
    text = ctypes.create_string_buffer(b'1.16.3')
    get_version = ctypes.CFUNCTYPE(ctypes.c_void_p)(lambda: ctypes.addressof(text))
    base = (ctypes.c_void_p * 2)(*(ctypes.cast(each, ctypes.c_void_p) for each in (get_api, get_version)))
    function = ctypes.CDLL(library).RegisterCustomOps
    function.restype, function.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_void_p]
    return function(None, ctypes.byref(base))


def test_two_onnx_runtimes_in_one_process(library):
    """Each gets the operators from functions of its own, and only once."""
    calls, tables, kept = [], [], []

    def fake_api(number):
        def create_domain(name, out):
            calls.append((number, 'create', name))
            out[0] = number

        def function(callback, *arguments):
            kept.append(ctypes.CFUNCTYPE(ctypes.c_void_p, *arguments)(callback))
            return ctypes.cast(kept[-1], ctypes.c_void_p)

        table = (ctypes.c_void_p * 29)()
        table[26] = function(create_domain, ctypes.c_char_p, ctypes.POINTER(ctypes.c_void_p))
        table[27] = function(
            lambda domain, op: calls.append((number, 'operator', domain)), *[ctypes.c_void_p] * 2
        )
        table[28] = function(
            lambda options, domain: calls.append((number, 'use', domain)), *[ctypes.c_void_p] * 2
        )
        tables.append(table)
        return ctypes.addressof(table)

    apis = {number: fake_api(number) for number in (1, 2)}
    for number in (1, 2, 1):
        assert register(library, lambda version, api=apis[number]: api) is None
    first, second = (
        [(n, 'create', b'mmmobilemamba'), *[(n, 'operator', n)] * 3, (n, 'use', n)] for n in (1, 2)
    )
    assert calls == [*first, *second, (1, 'use', 1)]


def test_an_old_onnx_runtime_is_refused(library):
    """The message names both versions. This ONNX Runtime only has the interface of version 1."""
    messages = []

    @ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)
    def create_status(code, message):
        messages.append(message.decode())
        return 1

    functions = (ctypes.c_void_p * 1)(ctypes.cast(create_status, ctypes.c_void_p))
    assert register(library, lambda version: ctypes.addressof(functions) if version == 1 else None) == 1
    assert messages == ['the operators of mmmobilemamba need ONNX Runtime 1.17 or newer, and this is 1.16.3']


def test_the_command_in_the_docs():
    """It compiles the same files with the same flags as this package."""
    page = (ROOT / 'docs/runtimes.md').read_text()
    command = re.search(r'^g\+\+ .*\\\n.*$', page, re.MULTILINE).group().replace('\\\n', '')
    out = ['-o', 'mmmobilemamba_ops-linux-x86_64.so']
    options = ['-DFINGERPRINT=""', '-fPIC', '-shared', '-pthread']
    assert shlex.split(command) == ['g++', *FLAGS, *options, *out, *UNITS]


def test_declarations_equal_the_header(tmp_path):
    """csrc/onnxruntime_abi.h has the functions of ONNX Runtime's own header at the same places."""
    try:
        compiler = find_compiler()
    except BuildError as error:
        pytest.skip(str(error))
    lines = [f'#include <{HEADER}>', '#include "onnxruntime_abi.h"', '#include <cstddef>']
    lines += [
        f'static_assert(offsetof(Ort{struct}, {field}) == offsetof(ort::{struct}, {field}), "{field}");'
        for struct, fields in FIELDS.items()
        for field in fields.split()
    ]
    lines += [
        'static_assert(ort::kFloat == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, "");',
        'static_assert(ort::kFail == ORT_FAIL && ort::kInvalidArgument == ORT_INVALID_ARGUMENT, "");',
    ]
    (tmp_path / 'check.cpp').write_text('\n'.join(lines))
    (tmp_path / 'header.cpp').write_text(lines[0])
    command = [*compiler, '-std=c++17', '-fsyntax-only', f'-I{SOURCES}', '-I/usr/include/onnxruntime']
    if subprocess.run([*command, str(tmp_path / 'header.cpp')], capture_output=True).returncode:
        pytest.skip(f'no {HEADER}: install libonnxruntime-dev (Debian 13), or put its folder into CPATH')
    done = subprocess.run([*command, str(tmp_path / 'check.cpp')], capture_output=True, text=True)
    assert not done.returncode, done.stderr
