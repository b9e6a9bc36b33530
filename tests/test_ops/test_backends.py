"""The backend selected for each operation, and the reasons against faster ones."""

import ast

import pytest
import torch

from mmmobilemamba.ops import (
    OPERATIONS,
    backends,
    conv,
    conv2d,
    cpu,
    haar,
    haar_dwt,
    select_backend,
    selective_scan,
    tracing,
)

from ..conftest import ROOT, noise_for
from .test_selective_scan import arguments

BESIDE_THE_SCAN = [name for name in OPERATIONS if name != 'scan']
needs_cpp = pytest.mark.skipif(not cpu.has_vectors(), reason='no kernels with vectors here')


@needs_cpp
@pytest.mark.parametrize('operation', OPERATIONS)
def test_on_a_cpu(operation):
    assert select_backend(operation=operation) == ('cpp', {})
    assert select_backend('cpp', operation=operation) == ('cpp', {})
    assert select_backend('torch', operation=operation) == ('torch', {})


@pytest.mark.parametrize('operation', BESIDE_THE_SCAN)
def test_what_surrounds_the_scan_is_left_to_pytorch(operation):
    """If the scan refuses a backend, or has one that other operations do not have."""
    for backend in ('torch', 'naive', 'export'):
        assert select_backend(backend, operation=operation) == ('torch', {})
    assert select_backend('cpp', 'meta', operation=operation) == (
        'torch',
        dict(cpp='it is for cpu, and the tensors are on meta'),
    )
    assert set(select_backend('auto', 'meta', operation=operation).passed_over) == {'cpp', 'triton'}


@needs_cpp
@pytest.mark.parametrize('operation', BESIDE_THE_SCAN)
def test_a_name_of_pytorch_is_missing(monkeypatch, operation):
    """Kernels are not called past PyTorch's dispatcher, and the choice says why; the scan has an operator."""
    monkeypatch.setattr(tracing, 'CAN_DETECT', False)
    monkeypatch.setattr(tracing, 'MISSING', ('torch._C._has_storage',))
    monkeypatch.setattr(cpu.library, 'has_vectors', cpu.has_vectors.__wrapped__)
    choice = select_backend(operation=operation)
    assert choice.backend == 'torch'
    assert 'has no torch._C._has_storage' in choice.passed_over['cpp']
    assert select_backend() == ('cpp', {})
    args = arguments(1, 5, 3, torch.float32)
    assert not cpu.can_run(*args)
    torch.testing.assert_close(selective_scan(*args), selective_scan(*args, backend='naive'))


@needs_cpp
@torch.no_grad()
def test_the_choice_is_what_runs(monkeypatch):
    calls = []
    for module, name in ((conv, 'conv2d_cpp'), (haar, 'haar_dwt_cpp')):
        real = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *args, name=name, real=real: calls.append(name) or real(*args)
        )
    x, weight = noise_for((1, 16, 4, 4), 0).contiguous(memory_format=torch.channels_last), torch.eye(16)

    def run(dtype):
        calls.clear()
        conv2d(x.to(dtype), weight.to(dtype).view(16, 16, 1, 1))
        haar_dwt(x.to(dtype))
        return [select_backend(dtype=dtype, operation=name).backend for name in ('conv', 'haar')], calls

    assert run(torch.float32) == (['cpp', 'cpp'], ['conv2d_cpp', 'haar_dwt_cpp'])
    assert run(torch.float64) == (['torch', 'cpp'], ['haar_dwt_cpp'])
    assert run(torch.bfloat16) == (['torch', 'torch'], [])
    with torch.autocast('cpu', torch.bfloat16):
        assert run(torch.float32) == (['torch', 'cpp'], ['haar_dwt_cpp'])


@needs_cpp
def test_reasons():
    reasons = {
        ('conv', torch.float64): 'it is for float32, not float64',
        ('depthwise_conv', torch.bfloat16): 'it is for float32, not bfloat16',
        ('haar', torch.bfloat16): 'it is for float32 and float64, not bfloat16',
        ('norm_gate', torch.float16): 'it is for float32 and float64, not float16',
    }
    for (operation, dtype), reason in reasons.items():
        assert select_backend(dtype=dtype, operation=operation).passed_over['cpp'] == reason
    with torch.autocast('cpu', torch.bfloat16):
        assert 'autocast is on' in select_backend(operation='conv').passed_over['cpp']


def test_no_vectors(monkeypatch):
    monkeypatch.setattr(cpu.library, 'why_not', lambda: None)
    monkeypatch.setattr(cpu.library, 'has_vectors', lambda: False)
    monkeypatch.setattr(tracing, 'CAN_DETECT', True)
    assert select_backend(operation='conv').passed_over['cpp'] == 'it needs a processor with AVX2'
    assert select_backend(operation='haar').backend == 'cpp'


def test_on_a_gpu(monkeypatch):
    monkeypatch.setattr(backends, 'find_spec', lambda name: name)
    monkeypatch.setattr(backends, 'AS_OPERATOR', True)
    monkeypatch.setattr(tracing, 'CAN_DETECT', True)
    found = {name: select_backend(device='cuda', operation=name).backend for name in OPERATIONS}
    assert found == {**dict.fromkeys(OPERATIONS, 'triton'), 'conv': 'torch'}
    choice = select_backend(device='cuda', operation='conv')
    assert choice.passed_over['triton'] == 'it has no dense convolutions; cuDNN runs them'
    for operation in ('depthwise_conv', 'haar', 'norm_gate'):
        choice = select_backend(device='cuda', dtype=torch.float64, operation=operation)
        assert choice.passed_over['triton'] == 'it is for float32, bfloat16 and float16, not float64'
    monkeypatch.setattr(tracing, 'CAN_DETECT', False)
    monkeypatch.setattr(tracing, 'MISSING', ('torch._C._has_storage',))
    found = {name: select_backend(device='cuda', operation=name).backend for name in OPERATIONS}
    assert found == dict(
        scan='triton', conv='torch', depthwise_conv='torch', haar='triton', norm_gate='triton'
    )


def test_wrong_names():
    with pytest.raises(ValueError, match=r"operation 'convolution' is not one of .*'conv'.*'scan'"):
        select_backend(operation='convolution')
    with pytest.raises(ValueError, match="backend 'fast' is not one of"):
        select_backend('fast', operation='conv')


MODULES = sorted(
    '.'.join(path.relative_to(ROOT).with_suffix('').parts)
    for path in (ROOT / 'mmmobilemamba/ops').rglob('*.py')
    if path.name != '__init__.py'
)


def imports_of(path):
    """Full names of the modules of this package that a module imports at its top (set)."""
    parts = path.relative_to(ROOT).with_suffix('').parts
    package = list(parts[:-1])
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            source = '.'.join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f'{source}.{alias.name}'
                found.add(inner if inner in MODULES else source)
    return found


def test_no_module_imports_one_that_imports_it():
    graph = {
        name: {other for other in imports_of(ROOT / f'{name.replace(".", "/")}.py') if other in MODULES}
        for name in MODULES
    }
    while graph:
        leaves = {name for name, others in graph.items() if not others & graph.keys()}
        assert leaves, f'a circle among {sorted(graph)}'
        graph = {name: others for name, others in graph.items() if name not in leaves}
