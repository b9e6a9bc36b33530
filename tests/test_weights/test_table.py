"""The table of published weights. Tests cannot access Google Drive, so only the format of ids is tested."""

import re
from pathlib import Path

import pytest

from mmmobilemamba.models.arch import ARCHS
from mmmobilemamba.weights import WEIGHTS, weights_of
from mmmobilemamba.weights.table import ARCHIVE

from ..conftest import ROOT


def test_nineteen_checkpoints():
    tasks = [weights.task for weights in WEIGHTS]
    assert [tasks.count(task) for task in ('classification', 'detection', 'segmentation')] == [12, 4, 3]
    for each in ('name', 'drive_id', 'file_name', 'config'):
        assert len({getattr(weights, each) for weights in WEIGHTS}) == 19
    assert {weights.arch for weights in WEIGHTS} == set(ARCHS)


def test_ids_have_the_form_of_ids():
    for drive_id in (ARCHIVE, *(weights.drive_id for weights in WEIGHTS)):
        assert re.fullmatch(r'1[-\w]{32}', drive_id)


def test_configs_exist():
    there = {path.stem for path in (ROOT / 'configs').rglob('*.py')}
    assert {weights.config for weights in WEIGHTS} <= there


def test_address():
    address = 'https://drive.google.com/file/d/1ODO1XM2luMfczbDLJxHrEl-ie7yUscAC/view'
    assert weights_of('mobilemamba://b1').address == weights_of('b1').address == address


def test_names_in_any_case_and_of_configs():
    b1 = weights_of('b1')
    for name in ('B1', 'mobilemamba://B1', 'mobilemamba-b1_8xb128_in1k', 'mobilemamba-b1_8xb128_in1k.py'):
        assert weights_of(name) is b1


@pytest.mark.parametrize(
    'name', ['b1kd', 'b1-distilled', 'mobilemamba_B1_distilled', 'mobilemamba_b1-kd.pth']
)
def test_unknown_name_gives_the_names(name):
    message = rf"named {re.escape(repr(name))}; 'b1-kd' is close. The names are t2, t2-kd, .*pspnet-b4"
    with pytest.raises(ValueError, match=message):
        weights_of(f'mobilemamba://{name}')


def test_page_has_the_table():
    """One row for each entry, with its name, file and URL."""
    page = Path(ROOT / 'docs/checkpoints.md').read_text(encoding='utf-8')
    rows = re.findall(
        r'^\| `mobilemamba://(\S+)` \| \[`(\S+)`\]\((\S+)\) \| `(\S+)` \| (\S.*) \|$', page, re.M
    )
    assert rows == [
        (each.name, each.file_name, each.address, each.config, f'{each.score:g} {each.metric}')
        for each in WEIGHTS
    ]
