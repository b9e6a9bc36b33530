"""What users install: the wheel, the metadata, and the snippets in the README."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import modelindex
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmmobilemamba import __version__
from mmmobilemamba.models.checkpoint import read_checkpoint

from .conftest import ROOT, load_script
from .pages import NOTEBOOKS, PAGES, name_of

check_wheel = load_script('tools/misc/check_wheel.py')
README = (ROOT / 'README.md').read_text()
SNIPPETS = re.findall(r'\*\*(\w[\w ]*)\*\*.*?\n\n```python\n(.*?)```', README, flags=re.DOTALL)


def run(*command, cwd=None):
    """Run a command that must succeed; returns its output."""
    result = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=dict(os.environ, PATH=f'{Path(command[0]).parent}{os.pathsep}{os.environ["PATH"]}'),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-3000:]
    return result.stdout


def build_wheel(folder, **environment):
    """Build a wheel from a copy of the repository, which is not modified."""
    ignored = shutil.ignore_patterns(
        *('.git', '.venv*', 'data', 'work_dirs', '.mim', '*.egg-info', '*.so', 'build', 'ort'),
        *('__pycache__', '.mypy_cache'),
    )
    source = shutil.copytree(ROOT, folder / 'source', ignore=ignored)
    options = ('--no-deps', '--no-build-isolation', '-w', folder, source)
    command = [str(part) for part in (sys.executable, '-m', 'pip', 'wheel', *options)]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, **environment})
    (path,) = folder.glob(f'mmmobilemamba-{__version__}-*.whl')
    return path


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    return build_wheel(tmp_path_factory.mktemp('wheel'))


def compiled_in(wheel):
    """Names of the compiled files in a wheel."""
    return [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(('.so', '.pyd'))]


def test_wheel_ships_the_kernels(wheel):
    """For this platform and every Python, because they depend on neither Python nor torch."""
    platform = sysconfig.get_platform().replace('-', '_').replace('.', '_')
    assert wheel.name == f'mmmobilemamba-{__version__}-py3-none-{platform}.whl'
    assert compiled_in(wheel) == ['mmmobilemamba/ops/cpu/_kernels.so']
    assert check_wheel.problems(wheel, kernels=True) == []
    names = [name for name in zipfile.ZipFile(wheel).namelist() if '/csrc/' in name]
    expected = {path.name for path in (ROOT / 'mmmobilemamba/ops/cpu/csrc').iterdir()}
    assert {Path(name).name for name in names} == expected and 'kernels.cpp' in expected


@pytest.mark.slow
def test_wheel_without_a_compiler(tmp_path):
    """It is for every platform and contains the sources."""
    wheel = build_wheel(tmp_path, CC='false', CXX='false')
    assert wheel.name == f'mmmobilemamba-{__version__}-py3-none-any.whl'
    assert compiled_in(wheel) == []
    assert check_wheel.problems(wheel, kernels=False) == []


def test_the_source_archive_is_complete(wheel, tmp_path):
    """A wheel built from it has the same files; it also contains tests and pages."""
    code = f'import setuptools.build_meta as backend; backend.build_sdist({str(tmp_path)!r})'
    subprocess.run([sys.executable, '-c', code], cwd=wheel.parent / 'source', check=True, capture_output=True)
    with tarfile.open(tmp_path / f'mmmobilemamba-{__version__}.tar.gz') as archive:
        names = {name.partition('/')[2] for name in archive.getnames()}
    built = {name.replace('mmmobilemamba/.mim/', '') for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in built if '.dist-info/' not in name and not name.endswith('.so')} <= names
    pages = {name_of(page) for page in (*PAGES, *NOTEBOOKS)}
    assert pages | {'Makefile', 'CITATION.cff', 'pyproject.toml', 'tests/conftest.py'} <= names


def test_wheel_ships_mim(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ('configs', 'tools'):
        tracked = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob('*.*')}
        tracked = {name for name in tracked if '__pycache__' not in name and '/web/ort/' not in name}
        assert {f'mmmobilemamba/.mim/{name}' for name in tracked} <= names
    assert 'mmmobilemamba/.mim/model-index.yml' in names
    python = (ROOT / 'mmmobilemamba/configs').rglob('*.py')  # recipes in mmengine's pure Python style
    assert {path.relative_to(ROOT).as_posix() for path in python} <= names
    assert not [name for name in names if name.startswith(('tests', 'demo')) or name.endswith('.pyc')]


def test_wheel_works_without_the_repository_and_a_compiler(wheel, tmp_path):
    """Its kernels run without being built."""
    site = tmp_path / 'site'
    command = [sys.executable, '-m', 'pip', 'install', '--no-deps', '--target', site, wheel]
    subprocess.run([str(part) for part in command], check=True, capture_output=True)
    code = (
        f'import sys; sys.path.insert(0, {str(site)!r})\n'
        'import mmmobilemamba, pathlib\n'
        'from mmengine.config import Config\n'
        'mim = pathlib.Path(mmmobilemamba.__file__).parent / ".mim"\n'
        'assert str(mim).startswith(sys.path[0]), mim\n'
        'from mmmobilemamba.ops.cpu.build import find_library\n'
        'assert str(find_library()).startswith(sys.path[0]), find_library()\n'
        'from mmmobilemamba.ops import select_backend\n'
        'assert select_backend() == ("cpp", {}), select_backend()\n'
        'print(Config.fromfile(next(mim.glob("configs/retinanet/*b1*.py"))).model.backbone.type)\n'
    )
    environment = dict(os.environ, PATH=str(tmp_path), TORCH_EXTENSIONS_DIR=str(tmp_path / 'built'))
    environment.pop('CXX', None)
    result = subprocess.run(
        [sys.executable, '-c', code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == 'MobileMamba\n'
    assert not (tmp_path / 'built').exists()


@pytest.mark.slow
def test_mim_after_a_plain_install(wheel, tmp_path):
    """`pip install .` in a new environment that inherits the packages of this one."""
    pytest.importorskip('mmpretrain')
    python = tmp_path / 'env' / 'bin' / 'python'
    run(sys.executable, '-m', 'venv', '--without-pip', tmp_path / 'env')
    site = next((tmp_path / 'env' / 'lib').glob('python*')) / 'site-packages'
    run(sys.executable, '-m', 'pip', 'install', '--no-deps', '--target', site, wheel)
    # After the packages of the new environment, so that the editable installation here is hidden.
    (site / 'below.pth').write_text(sysconfig.get_path('purelib'))
    mim = (python, '-W', 'ignore', '-m', 'mim')
    installed = 'import mmmobilemamba; print(mmmobilemamba.__path__[0])'
    assert run(python, '-c', installed, cwd=tmp_path) == f'{site / "mmmobilemamba"}\n'

    run(
        *mim, 'search', 'mmmobilemamba', '--field', 'config', '--json', tmp_path / 'models.json', cwd=tmp_path
    )
    listed = json.loads((tmp_path / 'models.json').read_text())['config']
    assert listed['mobilemamba-b1_8xb128_in1k'] == 'configs/mobilemamba/mobilemamba-b1_8xb128_in1k.py'

    scenes = tmp_path / 'data/digits_scenes'
    run(*mim, 'run', 'mmmobilemamba', 'digits_scenes', scenes, '--train', '4', '--val', '1', cwd=tmp_path)
    (name,) = (path.name for path in (ROOT / 'configs/mobilemamba').glob('mobilemamba-t2_*e_digits-*.py'))
    options = ('train_dataloader.dataset.indices=8', 'train_dataloader.batch_size=8')
    options += ('train_cfg.max_epochs=1', 'param_scheduler.warmup=0', 'val_dataloader.dataset.indices=2')
    small = ('--gpus', '0', '--work-dir', tmp_path / 'work', '--cfg-options', *options)
    output = run(*mim, 'train', 'mmmobilemamba', name, *small, cwd=tmp_path)
    assert f'{site}/mmmobilemamba/.mim/tools/train.py' in output
    assert read_checkpoint(tmp_path / 'work/epoch_1.pth')['meta']['iter'] == 1


def test_model_index():
    index = modelindex.load(str(ROOT / 'model-index.yml'))
    index.build_models_with_collections()
    assert index.check(silent=True) == []
    for model in index.models:
        assert (ROOT / model.config).is_file()
        assert model.name == (ROOT / model.config).stem


@pytest.mark.parametrize(('name', 'code'), SNIPPETS, ids=[name for name, _ in SNIPPETS])
def test_readme_snippets(name, code, tmp_path, capsys):
    if name == 'Plain PyTorch':
        exec(code, {})
        assert '[(1, 144, 12, 12), (1, 272, 6, 6), (1, 368, 3, 3)] (144, 272, 368) (16, 32, 64)' in (
            capsys.readouterr().out
        )
        return
    path = tmp_path / 'config.py'
    path.write_text(code)
    config = Config.fromfile(path)
    init_default_scope(name)
    assert 'ResNet' not in str(config.model)
    model = MODELS.build(config.model).eval()
    with torch.no_grad():
        outs = model(torch.rand(1, 3, 128, 128), mode='tensor')
    if name == 'mmdet':
        assert [out.shape[2] for out in outs[0]] == [16, 8, 4, 2, 1]
    else:
        assert outs.shape == ((1, 150, 2, 2) if name == 'mmseg' else (1, 1000))


def test_every_snippet_is_tested():
    assert [name for name, _ in SNIPPETS] == ['mmdet', 'mmseg', 'mmpretrain', 'Plain PyTorch']
