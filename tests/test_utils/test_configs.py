"""Where the recipes are installed."""

from pathlib import Path

import pytest

from mmmobilemamba.utils import config_path, configs

from ..conftest import ROOT


def test_where_the_configs_are(tmp_path, monkeypatch):
    """``.mim`` comes before the checkout, and neither is an error that says what to do."""
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
