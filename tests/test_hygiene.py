"""The import is silent, fast, and only needs torch, mmengine and mmcv; conventions of the sources."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mmmobilemamba

from .conftest import ROOT

PACKAGE = ROOT / 'mmmobilemamba'
SOURCES = sorted(PACKAGE.rglob('*.py'))
BLOCKED = (
    'mmdet',
    'mmseg',
    'mmpretrain',
    'triton',
    'timm',
    'pywt',
    'mamba_ssm',
    'torchvision',
    'sklearn',
    'mmcv.ops',
)

IMPORT = """
import os, sys, time, warnings
import torch, mmengine, mmengine.model, mmengine.runner
for name in {blocked!r}:
    sys.modules[name] = None
environment, start = dict(os.environ), time.process_time()  # other jobs do not count
with warnings.catch_warnings():
    warnings.simplefilter('error')
    import mmmobilemamba
seconds = time.process_time() - start
assert dict(os.environ) == environment, 'environment changed'
assert not torch.cuda.is_initialized()
from mmengine.registry import MODELS
backbone = MODELS.build(dict(type='MobileMamba', arch='t2')).eval()
assert backbone(torch.zeros(1, 3, 64, 64))[0].shape == (1, 368, 1, 1)
sys.stderr.write(str(seconds))
"""


def test_import(tmp_path):
    result = subprocess.run(
        [sys.executable, '-c', IMPORT.format(blocked=BLOCKED)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == ''
    seconds = result.stderr.strip().splitlines()[-1]
    assert float(seconds) < 3


def test_public_names():
    assert mmmobilemamba.__all__ == ['MobileMamba', '__version__', 'create_model']


@pytest.mark.parametrize('path', SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_sources(path):
    for node in ast.walk(ast.parse(path.read_text())):
        kernel = 'triton.jit' in map(ast.unparse, getattr(node, 'decorator_list', ()))
        if isinstance(node, ast.FunctionDef) and not kernel:
            assert node.end_lineno - node.lineno < 60, node.name
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f'bare except, line {node.lineno}'
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ('eval', 'exec', 'print'), f'{node.func.id}, line {node.lineno}'


def public_functions(body, methods=False):
    """Functions of a module, and methods of its public classes, whose names have no leading underscore.

    Triton kernels are excluded, because Triton infers the types of their arguments.
    """
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith('_'):
            yield from public_functions(node.body, methods=True)
        if isinstance(node, ast.FunctionDef) and not node.name.startswith('_'):
            decorators = [ast.unparse(decorator).partition('(')[0] for decorator in node.decorator_list]
            if 'triton.jit' in decorators:
                continue
            static = 'staticmethod' in decorators
            arguments = [*node.args.posonlyargs, *node.args.args]
            others = [node.args.vararg, *node.args.kwonlyargs, node.args.kwarg]
            yield node, [*arguments[methods and not static :], *filter(None, others)]


@pytest.mark.parametrize('path', SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_public_functions_have_type_hints(path):
    for node, arguments in public_functions(ast.parse(path.read_text()).body):
        missing = [argument.arg for argument in arguments if argument.annotation is None]
        assert node.returns is not None and not missing, f'{node.name}, line {node.lineno}: {missing}'


def test_the_package_is_typed():
    assert (Path(mmmobilemamba.__file__).parent / 'py.typed').is_file()


def test_the_linter_needs_no_set_up():
    """``make lint`` creates an environment with two pinned packages."""
    rules = re.findall(r'^(\S+): (.*)$', (ROOT / 'Makefile').read_text(), re.MULTILINE)
    assert dict(rules)['lint'] == 'lint-env'
    pins = (ROOT / 'requirements' / 'lint.txt').read_text()
    assert re.fullmatch(r'#.*\nmypy==\S+\nruff==\S+\n', pins)


def test_the_package_finds_its_files():
    mim = Path(mmmobilemamba.__file__).parent / '.mim'
    for name in ('configs', 'tools', 'model-index.yml'):
        assert (mim / name).exists(), name
