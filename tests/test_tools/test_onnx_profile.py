"""The profile of an exported network: every node is counted once, and times are medians in ms."""

import shutil

import pytest
import torch
from torch import nn

from mmmobilemamba.ops.cpu import library
from mmmobilemamba.ops.cpu.build import find_library

from ..conftest import load_script

pytest.importorskip('onnxruntime')
onnx_profile = load_script('tools/analysis_tools/onnx_profile.py')


def event(kind, name, microseconds, category='Node'):
    return dict(cat=category, name=f'{name}_kernel_time', dur=microseconds, args=dict(op_name=kind))


def test_times_of_nodes():
    """Each node's median over the runs; what is no kernel of a node is left out."""
    events = [
        event('Conv', 'a', 1000),
        event('Conv', 'a', 9000),
        event('Conv', 'a', 2000),
        event('Conv', 'b', 500),
    ]
    events += [
        event('Conv', 'a', 1, category='Session'),
        dict(cat='Node', name='a_fence_before', dur=7, args={}),
    ]
    assert onnx_profile.node_times(events) == {('Conv', 'a_kernel_time'): 2, ('Conv', 'b_kernel_time'): 0.5}


def test_table():
    """Rare kinds are summed, and shares are of the sum of all nodes."""
    kinds = {'Conv': (3, 9.9), 'Add': (1, 0.095), 'Mul': (2, 0.005)}
    assert onnx_profile.table('b1', (64, 96), 8.25, kinds) == [
        '| b1 @ 64x96: 8.2 ms | nodes | ms | share |',
        '|---|---|---|---|',
        '| Conv | 3 | 9.90 | 99% |',
        '| the rest | 3 | 0.10 | 1% |',
    ]


def test_file(tmp_path, capsys):
    """A file is run as it is: here two products, with a sigmoid between."""
    pytest.importorskip('onnxscript')
    network = nn.Sequential(nn.Linear(32, 8), nn.Sigmoid(), nn.Linear(8, 4)).eval()
    path = tmp_path / 'network.onnx'
    torch.onnx.export(network, (torch.rand(1, 3, 16, 32),), dynamo=True, verbose=False).save(path)
    capsys.readouterr()
    onnx_profile.main([f'{path}@16x32'])
    _, head, _, *rows = capsys.readouterr().out.splitlines()
    assert head.startswith(f'| {path} @ 16x32: ') and head.endswith(' ms | nodes | ms | share |')
    cells = [[cell.strip() for cell in row.strip('|').split('|')] for row in rows]
    numbers = {kind: int(number) for kind, number, _, _ in cells}
    assert numbers['Sigmoid'] == 1 and sum(numbers.values()) >= 3
    assert all(float(value) >= 0 for _, _, value, _ in cells)


@pytest.mark.skipif(library.why_not() is not None, reason=str(library.why_not()))
def test_custom_operators(tmp_path):
    """T2 has 5 blocks; its file is opened with the library beside it, and not without."""
    pytest.importorskip('onnxscript')
    content, _ = onnx_profile.content_of('t2', (64, 64), custom_ops=True)
    path = tmp_path / 'network.onnx'
    path.write_bytes(content)
    with pytest.raises(SystemExit, match='has operators of the domain mmmobilemamba, and there is no'):
        onnx_profile.main([f'{path}@64'])
    shutil.copyfile(find_library(), onnx_profile.runtimes.library_of(path))
    _, kinds = onnx_profile.profile(path, (64, 64))
    assert [kinds[name][0] for name in ('SelectiveScan', 'NormGate', 'HaarFilter')] == [5, 5, 5]
    with pytest.raises(SystemExit, match=r'timm/\S+: It has no layer to which --custom-ops applies'):
        onnx_profile.main(['timm/mobilenetv4_conv_small@64', '--custom-ops'])
