"""The environment report for bug reports."""

import subprocess
import sys

import mmengine
import torch

from mmmobilemamba import __version__
from mmmobilemamba.ops import OPERATIONS, cpu, select_backend
from mmmobilemamba.utils import collect_env as module
from mmmobilemamba.utils.collect_env import collect_env

from ..conftest import ROOT


def test_printed():
    command = [sys.executable, '-W', 'error::RuntimeWarning', '-m', 'mmmobilemamba.utils.collect_env']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    for line in (f'mmmobilemamba: {__version__}', f'PyTorch: {torch.__version__}'):
        assert line in lines
    for name in ('Python', 'MMEngine', 'MMCV', 'Threads', 'C++ compiler', 'C++ kernels', 'scan on cpu'):
        assert [line for line in lines if line.startswith(f'{name}: ')], name


def test_backends():
    env = collect_env()
    for operation in OPERATIONS:
        assert env[f'{operation} on cpu'].split()[0] == select_backend(operation=operation).backend
        assert (f'{operation} on cuda' in env) == torch.cuda.is_available()
    assert all(isinstance(value, str) for value in env.values())


def test_without_kernels(monkeypatch):
    """Reasons are reported without raising an error."""
    monkeypatch.setattr(cpu, 'why_not', lambda: 'there is no C++ compiler')
    monkeypatch.setattr(cpu.library, 'why_not', lambda: 'there is no C++ compiler')
    monkeypatch.setenv('CXX', '/nowhere/c++')
    env = collect_env()
    assert env['C++ kernels'] == 'none: there is no C++ compiler'
    assert env['C++ compiler'].startswith('none that runs: ') and '/nowhere/c++' in env['C++ compiler']
    assert env['scan on cpu'].startswith('torch (not cpp: there is no C++ compiler')
    assert env['haar on cpu'].startswith('torch (not cpp: there is no C++ compiler')


def test_versions():
    assert module.installed_version(['mmmobilemamba-nothing']) == 'not installed'
    assert module.installed_version(['mmmobilemamba-nothing', 'mmengine']) == mmengine.__version__
