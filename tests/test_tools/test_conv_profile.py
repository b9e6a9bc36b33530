"""The profile of convolutions: each is counted once, with its size; times are medians in ms."""

import pytest
import torch

from ..conftest import load_script

conv_profile = load_script('tools/analysis_tools/conv_profile.py')
HEAD = '| number | MMAC | MiB of weights | ms | ms, cached | GMAC/s |'


def test_kinds():
    output = torch.empty(1, 8, 4, 6)
    assert conv_profile.kind_of(torch.empty(8, 2, 1, 1), output) == 'pointwise, 4 x 6'
    assert conv_profile.kind_of(torch.empty(8, 1, 5, 5), output) == 'depthwise 5 x 5, 4 x 6'
    assert conv_profile.kind_of(torch.empty(8, 3, 3, 3), output) == '3 x 3, 4 x 6'


def test_table():
    """The last row sums the others; the speed is that inside the network."""
    sums = {
        'pointwise, 4 x 4': conv_profile.Layer(3, 8_000_000, 2**20, 0.1, 0.08),
        'depthwise 3 x 3, 4 x 4': conv_profile.Layer(1, 2_000_000, 2**19, 0.15, 0.1),
    }
    assert conv_profile.table('b1', (64, 96), 0.5, sums) == [
        f'| b1 @ 64x96: 0.5 ms {HEAD}',
        '|---|---|---|---|---|---|---|',
        '| pointwise, 4 x 4 | 3 | 8.0 | 1.0 | 0.10 | 0.08 | 80 |',
        '| depthwise 3 x 3, 4 x 4 | 1 | 2.0 | 0.5 | 0.15 | 0.10 | 13 |',
        '| all convolutions | 4 | 10.0 | 1.5 | 0.25 | 0.18 | 40 |',
    ]


@pytest.mark.usefixtures('one_thread')
def test_network(capsys):
    """The stem of T2 at 64 x 96 px: four dense convolutions of stride 2, and no other."""
    conv_profile.main(['t2@64x96'])
    _, head, _, *rows = capsys.readouterr().out.splitlines()
    assert head.startswith('| t2 @ 64x96: ') and head.endswith(HEAD)
    split = ([cell.strip() for cell in row.strip('|').split('|')] for row in rows)
    cells = {kind: row for kind, *row in split}
    dense = [kind for kind in cells if kind.startswith('3 x 3')]
    assert sorted(dense) == ['3 x 3, 16 x 24', '3 x 3, 32 x 48', '3 x 3, 4 x 6', '3 x 3, 8 x 12']
    assert all(cells[kind][0] == '1' for kind in dense)
    total = cells.pop('all convolutions')
    assert sum(int(row[0]) for row in cells.values()) == int(total[0])
    for column in (3, 4):  # ms, rounded to 0.01, which can be 0 for one kind
        parts = sum(float(row[column]) for row in cells.values())
        assert float(total[column]) > 0
        assert parts == pytest.approx(float(total[column]), abs=0.005 * (len(cells) + 1))


@pytest.fixture
def one_thread():
    """The tool sets the number of threads."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
