"""What a user gets: the wheel, the metadata, and the README's own snippets."""

import re
import shutil
import subprocess
import sys
import zipfile

import modelindex
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmmobilemamba import __version__

from .conftest import ROOT

README = (ROOT / 'README.md').read_text()
SNIPPETS = re.findall(r'\*\*(\w[\w ]*)\*\*.*?\n\n```python\n(.*?)```', README, flags=re.DOTALL)


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """A wheel, built from a copy so that the tree stays as it is."""
    folder = tmp_path_factory.mktemp('wheel')
    ignored = shutil.ignore_patterns(
        '.git', '.venv*', 'data', 'work_dirs', '.mim', '__pycache__', '*.egg-info'
    )
    source = shutil.copytree(ROOT, folder / 'source', ignore=ignored)
    command = [
        sys.executable,
        '-m',
        'pip',
        'wheel',
        '--no-deps',
        '--no-build-isolation',
        '-w',
        folder,
        source,
    ]
    subprocess.run([str(part) for part in command], check=True, capture_output=True)
    return folder / f'mmmobilemamba-{__version__}-py3-none-any.whl'


def test_wheel_ships_mim(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ('configs', 'tools'):
        tracked = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob('*.*')}
        tracked = {name for name in tracked if '__pycache__' not in name}
        assert {f'mmmobilemamba/.mim/{name}' for name in tracked} <= names
    assert 'mmmobilemamba/.mim/model-index.yml' in names
    assert not [name for name in names if name.startswith('tests') or name.endswith('.pyc')]


def test_wheel_works_without_the_repository(wheel, tmp_path):
    site = tmp_path / 'site'
    command = [sys.executable, '-m', 'pip', 'install', '--no-deps', '--target', site, wheel]
    subprocess.run([str(part) for part in command], check=True, capture_output=True)
    code = (
        f'import sys; sys.path.insert(0, {str(site)!r})\n'
        'import mmmobilemamba, pathlib\n'
        'from mmengine.config import Config\n'
        'mim = pathlib.Path(mmmobilemamba.__file__).parent / ".mim"\n'
        'assert str(mim).startswith(sys.path[0]), mim\n'
        'print(Config.fromfile(next(mim.glob("configs/retinanet/*b1*.py"))).model.backbone.type)\n'
    )
    result = subprocess.run(
        [sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == 'MobileMamba\n'


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
