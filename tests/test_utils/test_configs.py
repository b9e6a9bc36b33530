"""Lookup of installed recipes, and reading configs."""

import re
from argparse import ArgumentTypeError
from pathlib import Path

import pytest

from mmmobilemamba.utils import config_argument, config_path, configs, forks, read_config

from ..conftest import ROOT


def test_where_the_configs_are(tmp_path, monkeypatch):
    """``.mim`` takes precedence over the checkout; if both are missing, the error says what to do."""
    package = tmp_path / 'mmmobilemamba'
    monkeypatch.setattr(configs, '__file__', str(package / 'utils/configs.py'))
    with pytest.raises(FileNotFoundError, match='Install the package again'):
        configs.find_root()
    for root in (tmp_path, package / '.mim'):
        (root / 'configs/mobilemamba').mkdir(parents=True)
        (root / 'configs/mobilemamba/metafile.yml').touch()
        assert configs.find_root() == root


def test_path_of_a_recipe():
    for path in (ROOT / 'configs').rglob('*.py'):
        if '_base_' not in path.parts:
            assert Path(config_path(path.stem)).samefile(path)
    assert config_path('mobilemamba-b1_8xb128_in1k.py') == config_path('mobilemamba-b1_8xb128_in1k')


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        (
            'retinanet_mobilemamba-b1_fpn_1x',
            "'retinanet_mobilemamba-b1_fpn_1x_coco' is close",
        ),
        ('yolo', "no recipe 'yolo'. `mim search mmmobilemamba` lists them all"),
        ('coco_adamw_12e', "no recipe 'coco_adamw_12e'"),
    ],
)
def test_no_such_recipe(name, message):
    with pytest.raises(ValueError, match=message):
        config_path(name)


def test_config_as_an_argument(tmp_path):
    """A file takes precedence over a recipe of the same name."""
    assert Path(config_argument('mobilemamba-b1_8xb128_in1k')).name == 'mobilemamba-b1_8xb128_in1k.py'
    mine = tmp_path / 'mobilemamba-b1_8xb128_in1k.py'
    mine.touch()
    assert config_argument(str(mine)) == str(mine)
    for text, message in (
        (f'{tmp_path}/mobilemamba-b2_8xb128_in1k.py', f'there is no config file {tmp_path}/mobilemamba-b2'),
        ('mobilemamba-b1_in1k.py', "no config file mobilemamba-b1_in1k.py here. .*-b1_.*in1k' is close"),
    ):
        with pytest.raises(ArgumentTypeError, match=message):
            config_argument(text)


def test_every_tool_takes_configs_so():
    """So every tool accepts names of recipes and reports wrong ones."""
    texts = {path.name: path.read_text() for path in (ROOT / 'tools').rglob('*.py')}
    tools = [name for name, text in texts.items() if re.search(r"add_argument\(\s*'config'", text)]
    without = [name for name in tools if not re.search(r'type=.*config_argument', texts[name])]
    assert len(tools) > 5
    assert without == ['train.py']  # started by mim; its help must not import anything


def test_a_fork_that_is_not_found(monkeypatch):
    """mmengine looks up the distribution; our error names the fork if one is installed."""
    config = config_path('mobilemamba-b4_pspnet_4xb8-80k_ade20k-512x512')
    words = 'mmsegmentation is not installed, please install mmsegmentation manually'

    def absent(*args, **kwargs):
        raise ModuleNotFoundError(words)

    assert read_config(config).default_scope == 'mmseg'
    monkeypatch.setattr(configs.Config, 'fromfile', absent)
    installed = {'onedl-mmsegmentation'}
    monkeypatch.setattr(forks, 'find', lambda name: name in installed or None)
    with pytest.raises(ModuleNotFoundError, match=r'python -m mmmobilemamba\.utils\.forks') as error:
        read_config(config)
    assert 'its fork, onedl-mmsegmentation' in str(error.value)
    installed.clear()
    with pytest.raises(ModuleNotFoundError, match=words):
        read_config(config)
