"""The C++ kernels: instruction sets, threads, building, and build failures."""

import ctypes
import os
import shutil
import subprocess
import sys

import pytest
import torch
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

from mmmobilemamba.ops import available_backends, cpu, select_backend, selective_scan, tracing
from mmmobilemamba.ops.cpu import build, library, structs
from mmmobilemamba.ops.cpu import scan as cpp

from ..conftest import ROOT, relative_error
from .test_selective_scan import NAMES, arguments

needs_cpp = pytest.mark.skipif(cpu.why_not() is not None, reason=str(cpu.why_not()))
SETS = cpu.INSTRUCTION_SETS[: 1 + (0 if cpu.why_not() else cpu.load()[1])]
# Steps near multiples of groups of 8 and chunks of 64; channels near vectors of 4 to 16 and blocks of 32;
# ranks near vectors; more images than have separate sums in backward (64 over the blocks).
SHAPES = [(1, 1, 1, 1), (2, 7, 33, 2), (1, 8, 16, 17), (2, 63, 40, 5), (1, 65, 70, 4), (3, 130, 31, 16)]
SHAPES += [(50, 9, 70, 18), (2, 20, 32, 19), (3, 5, 20, 10)]


def test_a_compiler_is_enough():
    """The test environment has a compiler, so the kernels are not skipped silently."""
    assert cpu.why_not() is None
    assert available_backends()[0] == 'cpp'
    assert select_backend() == ('cpp', {})


@needs_cpp
@pytest.mark.skipif(not (sys.platform == 'linux' and shutil.which('nm')), reason='needs nm of Linux')
def test_exported_names():
    """Each has the prefix of this package, except what ONNX Runtime calls and weak names of C++ itself."""
    command = ['nm', '--dynamic', '--defined-only', '--format=posix', str(build.find_library())]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    kinds = dict(line.split()[:2] for line in lines)
    standard = ('_ZNSt', '_ZNKSt', '_Zn', '_Zd')  # std::, new and delete
    weak = {name for name, kind in kinds.items() if kind in 'WV' and name.startswith(standard)}
    own = (*library.FUNCTIONS, 'layout_of', 'instruction_set', 'fingerprint')
    assert set(kinds) - weak == {'RegisterCustomOps', *(f'mmmobilemamba_{name}' for name in own)}


@needs_cpp
@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('name', SETS)
@pytest.mark.parametrize(('dtype', 'bound'), [(torch.float64, 1e-13), (torch.float32, 2e-6)])
def test_every_instruction_set(name, shape, dtype, bound):
    *sizes, rank = shape
    exact_args = [x.requires_grad_() for x in arguments(*sizes, rank=rank)]
    exact = selective_scan(*exact_args, backend='naive')
    grad_y = torch.randn(exact.shape, dtype=torch.float64)
    exact.backward(grad_y)
    args = [x.detach().to(dtype) for x in exact_args]
    assert relative_error(cpp.forward(*args, instruction_set=name), exact.detach()) < bound
    grads = cpp.backward(grad_y.to(dtype), *args, instruction_set=name)
    for label, found, x in zip(NAMES, grads, exact_args):
        scale = max(x.grad.abs().max().item(), 1e-3)
        assert (found - x.grad).abs().max().item() < bound * scale, label
    assert torch.equal(*grads[NAMES.index('D')])  # only the sum matters


@needs_cpp
def test_no_rank():
    """Step sizes then only depend on their bias."""
    u, x_dbl, dt_weight, *others = arguments(2, 9, 40, torch.float32, rank=1)
    grad_y = torch.randn(u.shape)
    narrow, wide = (u, x_dbl[..., 1:], dt_weight[..., :0], *others), (u, x_dbl, 0 * dt_weight, *others)
    assert torch.equal(cpp.forward(*narrow), cpp.forward(*wide))
    found, expected = (cpp.backward(grad_y, *args) for args in (narrow, wide))
    expected = expected[0], expected[1][..., 1:], expected[2][..., :0], *expected[3:]
    assert all(torch.equal(x, y) for x, y in zip(found, expected))


@needs_cpp
@pytest.mark.parametrize('shape', [(0, 5, 32), (2, 5, 0)])
def test_nothing_to_do(monkeypatch, shape):
    args = arguments(*shape, torch.float32)
    empty = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, 'new_empty', lambda *args: empty(*args).fill_(torch.nan))
    assert cpp.forward(*args).shape == shape
    grads = cpp.backward(torch.randn(shape), *args)
    assert [x.shape for x in grads] == [x.shape for x in args]
    assert not any(x.any() for x in grads)


@needs_cpp
@pytest.mark.parametrize('shape', [(3, 100, 150), (50, 10, 70)])
def test_threads_do_not_change_a_bit(shape):
    args = arguments(*shape, torch.float32)
    grad_y = torch.randn(shape)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results += [(cpp.forward(*args), *cpp.backward(grad_y, *args)) for _ in range(3)]
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(result, results[0]))


@needs_cpp
def test_threads_without_openmp(monkeypatch):
    args = arguments(2, 50, 100)
    grad_y = torch.randn(2, 50, 100)
    expected = cpp.forward(*args), *cpp.backward(grad_y, *args)
    kernels, best, _ = cpu.load()
    monkeypatch.setattr(library, 'load', lambda: (kernels, best, None))
    found = cpp.forward(*args), *cpp.backward(grad_y, *args)
    assert all(torch.equal(x, y) for x, y in zip(found, expected))


@needs_cpp
def test_saturated_steps():
    """Step sizes far outside the range of the polynomials are clamped correctly."""
    u, x_dbl, dt_weight, A, D, dt_bias = arguments(1, 40, 20)
    for bias in (-200.0, -90.0, -30.0, 30.0, 90.0, 200.0):
        args = [u, x_dbl, dt_weight, A, D, torch.full_like(dt_bias, bias)]
        exact = selective_scan(*args, backend='naive')
        assert relative_error(cpp.forward(*(x.float() for x in args)), exact) < 1e-6


@needs_cpp
def test_not_a_number_comes_out():
    args = arguments(1, 20, 20, torch.float32)
    for x in args:
        poisoned = [y.clone() for y in args]
        poisoned[[y is x for y in args].index(True)].view(-1)[0] = float('nan')
        assert cpp.forward(*poisoned).isnan().any()


@needs_cpp
def test_built_at_first_use(tmp_path, monkeypatch):
    """Kernels missing from the installation are built once into the cache, and can be loaded."""
    cache = tmp_path / 'für mich & "dich"'
    monkeypatch.setenv('TORCH_EXTENSIONS_DIR', str(cache))
    monkeypatch.setenv('TMPDIR', '/proc')  # not writable for compilers
    monkeypatch.setattr(build.Path, 'glob', lambda self, pattern: [])  # no installed library
    path = build.find_library()
    assert path.parent == cache / 'mmmobilemamba'
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert build.fingerprint().encode() in path.read_bytes()  # identifies an installed library
    made = path.stat().st_mtime_ns
    assert build.find_library() == path
    assert path.stat().st_mtime_ns == made


@pytest.mark.parametrize(
    ('environment', 'reason'),
    [
        (dict(PATH='', CXX=''), 'there is no C\\+\\+ compiler'),
        (dict(CXX='false'), 'false .*failed'),
        (dict(CXX='/nowhere/c++'), '/nowhere/c'),
    ],
)
def test_where_it_cannot_be_built(tmp_path, environment, reason):
    """No error: 'auto' selects the next backend and gives the reason."""
    code = (
        'import re, torch\n'
        'from mmmobilemamba.ops.cpu import build\n'
        'build.Path.glob = lambda self, pattern: []\n'
        'from mmmobilemamba import MobileMamba\n'
        'from mmmobilemamba.ops import select_backend\n'
        'choice = select_backend()\n'
        'assert choice.backend == "torch", choice\n'
        f'assert re.search({reason!r}, choice.passed_over["cpp"]), choice\n'
        'assert MobileMamba().eval()(torch.zeros(1, 3, 64, 64))[0].shape == (1, 368, 1, 1)\n'
        'try:\n'
        '    select_backend("cpp")\n'
        'except RuntimeError as error:\n'
        f'    assert re.search({reason!r}, str(error)), error\n'
        'else:\n'
        '    raise AssertionError\n'
    )
    environment = {**os.environ, 'TORCH_EXTENSIONS_DIR': str(tmp_path), **environment}
    command = [sys.executable, '-W', 'ignore', '-c', code]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert not list(tmp_path.rglob('*.so'))


@pytest.fixture
def no_library(monkeypatch):
    """No library is installed or configured."""
    monkeypatch.setattr(build.Path, 'glob', lambda self, pattern: [])
    for name in ('TORCH_EXTENSIONS_DIR', 'XDG_CACHE_HOME'):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures('no_library')
def test_a_user_without_a_home(monkeypatch):
    def no_home():
        raise RuntimeError('Could not determine home directory.')

    monkeypatch.setattr(build.Path, 'home', no_home)
    with pytest.raises(build.BuildError, match='no home folder to build in; set TORCH_EXTENSIONS_DIR'):
        build.find_library()


@pytest.mark.usefixtures('no_library')
@pytest.mark.parametrize('variable', ['HOME', 'XDG_CACHE_HOME', 'TORCH_EXTENSIONS_DIR'])
@pytest.mark.parametrize('kind', ['where nothing can be written', 'a file', 'unreadable'])
def test_a_folder_that_cannot_be_used(tmp_path, monkeypatch, variable, kind):
    (tmp_path / 'file').touch()
    folder = dict(zip(('where nothing can be written', 'a file'), ('/proc', str(tmp_path / 'file'))))
    monkeypatch.setenv(variable, folder.get(kind, '/somewhere'))
    if kind == 'unreadable':  # root can read everything

        def refuse(self):
            raise PermissionError(13, 'Permission denied', str(self))

        monkeypatch.setattr(build.Path, 'is_file', refuse)
    with pytest.raises(build.BuildError, match='; set TORCH_EXTENSIONS_DIR to a folder'):
        build.find_library()


@pytest.mark.usefixtures('no_library')
@pytest.mark.parametrize(
    ('command', 'reason'),
    [
        ('true', 'true .* failed: status 0, and no library'),
        ('"g++', 'CXX is no command'),
        ('/nowhere/g++ -m64', "the C\\+\\+ compiler '/nowhere/g\\+\\+' cannot be run"),
        ('{folder}/my compiler', 'made a library that cannot be loaded'),
        ('{folder}/failing', 'failed: .*kaputt'),
    ],
)
def test_strange_compilers(tmp_path, monkeypatch, command, reason):
    monkeypatch.setenv('TORCH_EXTENSIONS_DIR', str(tmp_path / 'cache'))
    script = '#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done; echo nonsense > "$2"\n'
    (tmp_path / 'my compiler').write_text(script)
    (tmp_path / 'failing').write_bytes(b'#!/bin/sh\nprintf "f\xfcr immer kaputt" >&2\nexit 1\n')  # Latin-1
    for name in ('my compiler', 'failing'):
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv('CXX', command.format(folder=tmp_path))
    with pytest.raises(build.BuildError, match=reason):
        build.find_library()
    assert not list((tmp_path / 'cache').rglob('*.so'))


def test_the_command_of_the_compiler(monkeypatch):
    for named, expected in (
        ('ccache g++ -m64', ['ccache', 'g++', '-m64']),
        (sys.executable, [sys.executable]),
    ):
        monkeypatch.setenv('CXX', named)
        assert build.find_compiler() == expected
    monkeypatch.setenv('CXX', '  ')
    monkeypatch.setattr(build.shutil, 'which', lambda name: name == 'clang++')
    assert build.find_compiler() == ['clang++']


@pytest.mark.skipif(not hasattr(os, 'geteuid') or os.geteuid() != 0, reason='needs root')
def test_a_user_without_a_name():
    """And without $HOME, as in containers that run with a numeric user id."""
    code = (
        'import os, torch, mmmobilemamba\n'
        'from mmmobilemamba.ops import select_backend\n'
        'from mmmobilemamba.ops.cpu import build\n'
        'build.Path.glob = lambda self, pattern: []\n'
        'os.setgid(54321); os.setuid(54321)\n'
        'assert "no home folder" in select_backend().passed_over["cpp"], select_backend()\n'
        'assert mmmobilemamba.MobileMamba().eval()(torch.zeros(1, 3, 64, 64))[0].shape == (1, 368, 1, 1)\n'
    )
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in ('HOME', 'XDG_CACHE_HOME', 'TORCH_EXTENSIONS_DIR')
    }
    command = [sys.executable, '-W', 'ignore', '-c', code]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def mirror(name, fields):
    """A ctypes mirror of a struct."""
    return type(name, (ctypes.Structure,), dict(_fields_=fields))


GATE = structs.Gate._fields_
WRONG_MIRRORS = [
    (mirror('Gate', GATE[:-1]), 'Gate is 64, not 56'),  # a field is missing
    (mirror('Gate', [*GATE, ('scale', ctypes.c_double)]), 'Gate is 64, not 72; Gate.scale is -1, not 64'),
    (mirror('Gate', [*GATE[:3], GATE[4], GATE[3], *GATE[5:]]), 'Gate.weight is 32, not 24'),  # wrong order
    (mirror('Door', GATE), 'Door is -1, not 64'),
]


@needs_cpp
@pytest.mark.parametrize(('wrong', 'message'), WRONG_MIRRORS)
def test_a_wrong_mirror_of_a_struct_is_refused(monkeypatch, wrong, message):
    """When the library is loaded; otherwise, calls would access wrong memory."""
    monkeypatch.setattr(structs, 'STRUCTS', (structs.Map, wrong))
    with pytest.raises(build.BuildError, match=rf'does not fit ops/cpu/structs\.py.*: {message}'):
        library.load.__wrapped__()


@needs_cpp
def test_other_numbers_of_activations_are_refused(monkeypatch):
    monkeypatch.setattr(structs, 'ACTIVATION_CODES', {None: 0, 'silu': 1, 'relu': 2})
    with pytest.raises(build.BuildError, match='activation silu is 2, not 1; activation relu is 1, not 2'):
        library.load.__wrapped__()


@needs_cpp
def test_default_device():
    """Outputs are on the device of the input, whatever the default device."""
    args = [x.requires_grad_() for x in arguments(1, 9, 5)]
    with torch.device('meta'):
        y = selective_scan(*args)
        grads = torch.autograd.grad(y, args, torch.ones_like(y, device='cpu'))
        with torch.no_grad():
            assert torch.equal(selective_scan(*args), y)
    assert {x.device.type for x in (y, *grads)} == {'cpu'}


@needs_cpp
@pytest.mark.skipif(not tracing.CAN_DETECT, reason='this PyTorch does not tell')
def test_kernels_are_called_directly_only_outside_of_traces_and_transforms():
    """Traces and transforms require PyTorch's dispatcher; results are equal."""
    args = arguments(2, 9, 5, torch.float32)
    expected = selective_scan(*args)
    seen = []

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    assert cpu.can_run(*args) and not cpu.can_run(*args[:-1], args[-1].double())
    with Record():
        assert not cpu.can_run(*args)
        assert torch.equal(selective_scan(*args), expected)
    assert 'mmmobilemamba.selective_scan.default' in seen
    with forward_ad.dual_level():
        assert not cpu.can_run(*args)
    torch.func.vmap(lambda x: seen.append(cpu.can_run(x)) or x)(args[0])
    assert seen[-1] is False
    with torch.no_grad():
        assert cpu.can_run(*(x.requires_grad_() for x in args))
    assert not cpu.can_run(*args)
