"""The benchmark: what it compares is equal, what it measures is right, what it writes is complete."""

import itertools
import json
import re
import subprocess
import sys
import time
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmmobilemamba import MobileMamba

from ..conftest import ROOT, authors_checkpoint, golden, image_for, load_script, relative_error

SCRIPT = ROOT / 'tools/analysis_tools/benchmark.py'
FORMS = ('plain', 'deploy', 'deploy+torch', 'deploy+channels_last', 'deploy+prepare', 'baseline')


@pytest.fixture(scope='module')
def benchmark():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)
        yield load_script(SCRIPT)


@torch.no_grad()
@pytest.mark.parametrize('variant', FORMS)
def test_every_form_is_the_network(benchmark, variant):
    """The baseline, too: what it leaves out is speed."""
    backbone = MobileMamba('t2').eval()
    backbone.load_state_dict(authors_checkpoint('t2'))
    image = image_for((2, 3, 96, 128))
    out = benchmark.benchmark_models.make_variant(backbone, variant, image)(image)
    out = out if torch.is_tensor(out) else out[-1]
    assert relative_error(out, golden('t2')['feat3']) < 1e-5
    assert not backbone.deploy


@pytest.mark.parametrize('text', ['fast', 'deploy+cpp+torch', ''])
def test_unknown_variants(benchmark, text):
    with pytest.raises(ValueError, match=r'is no variant: it is one of .*baseline.*, as in deploy\+torch'):
        benchmark.benchmark_models.parse_variant(text)


@torch.no_grad()
@pytest.mark.slow
@pytest.mark.parametrize(('option', 'bound'), [('onnx', 1e-5), ('onnx_fp16', 1e-2), ('onnx_int8', 0.2)])
def test_every_precision_is_the_network(benchmark, option, bound):
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    backbone = MobileMamba('t2').eval()
    backbone.load_state_dict(authors_checkpoint('t2'))
    image = image_for((2, 3, 96, 128))
    out = benchmark.benchmark_models.make_variant(backbone, f'deploy+{option}', image)(image)
    assert relative_error(torch.from_numpy(out[-1]), golden('t2')['feat3']) < bound


def test_variants(benchmark):
    parse = benchmark.benchmark_models.parse_variant
    assert parse('plain') == ('plain', None, [])
    assert parse('deploy+compile+cpp') == ('deploy', 'cpp', ['compile'])
    assert parse('deploy+onnx_int8') == ('deploy', None, ['onnx_int8'])


@torch.no_grad()
@pytest.mark.parametrize('name', ['mobilenetv3_small_050', 'repvit_m0_9', 'efficientvit_m0'])
def test_others_are_folded_too(benchmark, name):
    pytest.importorskip('timm')
    model = benchmark.benchmark_models.build(f'timm/{name}')
    size = 224 if name.startswith('efficientvit') else 64
    image = image_for((1, 3, size, size))
    folded = benchmark.benchmark_models.make_variant(model, 'deploy', image)
    norms = [m for m in folded.modules() if isinstance(m, _BatchNorm)]
    assert any(isinstance(m, _BatchNorm) for m in model.modules()) and not norms
    assert relative_error(folded(image), model(image)) < 1e-4


def test_a_shared_convolution_is_not_folded(benchmark):
    """Its output has another user, so the norm cannot go into it."""

    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x):
            x = self.conv(x)
            return x + self.bn(x)

    model = benchmark.benchmark_models.randomise(Shared()).eval()
    with pytest.raises(RuntimeError, match='a convolution has other users'):
        benchmark.benchmark_models.fold_batch_norms(model)


def test_measure(benchmark, monkeypatch):
    """By a clock that only the functions move."""
    now = [0.0]
    monkeypatch.setattr(time, 'perf_counter', lambda: now[0])
    durations = dict(short=itertools.cycle([0.04]), long=itertools.cycle([0.1, 0.2, 0.6]))

    def step(name):
        now[0] += next(durations[name])

    timings = benchmark.measure({name: partial(step, name) for name in durations}, seconds=2)
    assert timings['short'][:3] == pytest.approx((40, 40, 40))
    assert timings['long'].median == pytest.approx(200) and timings['long'].count >= 5
    assert timings['long'].low <= 200 <= timings['long'].high
    assert timings['short'].count == 3 * timings['long'].count  # blocks of 0.15 s, or one call


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_memory_of_a_step(benchmark, monkeypatch):
    """64 MiB that a step allocates and frees."""
    steps = dict(plain=lambda: torch.ones(2**24).sum())
    monkeypatch.setattr(benchmark, 'make_steps', lambda *case: steps)
    found = []
    args = SimpleNamespace(device='cpu', tf32=False)
    before = torch.get_num_threads()
    benchmark.peak_memory(SimpleNamespace(put=found.append), ('b1', (64, 64), 1), before, 'plain', args)
    assert 56 < found[0] < 90


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['timm/repvit_m1_1@224', '--variants', 'baseline'], 'baseline is for MobileMamba'),
        (['timm/repvit_m1_1@224', '--variants', 'deploy+cpp'], r'deploy\+cpp is for MobileMamba'),
        (['b1@64', '--variants', 'baseline+cpp'], 'the baseline is what it is'),
        (['b1@64', '--variants', 'plain+fast'], "backend 'fast' is not one of"),
        (['scan:b1@64', '--variants', 'plain'], "backend 'plain' is not one of"),
        (['scan:x@64', '--variants', 'cpp'], 'scan:x is not scan: and one of'),
        (['b1@64', '--train', '--variants', 'deploy'], 'deploy is for inference'),
        (['b1@64', '--train', '--variants', 'plain+onnx_int8'], r'plain\+onnx_int8 is for inference'),
        (['b1@64', '--dtype', 'bfloat16', '--variants', 'deploy+onnx'], 'is for float32 on a CPU'),
        (['b1@64', '--device', 'cuda', '--variants', 'deploy+prepare'], 'is for float32 on a CPU'),
        (['b1@64', '--variants', 'deploy+onnx+onnx_fp16'], 'one form of ONNX at a time'),
        (['b1@64', '--variants', 'deploy+torch+onnx'], 'one form of ONNX at a time'),
        (['b1@64', '--variants', 'deploy+cuda_graph'], r'deploy\+cuda_graph needs a GPU'),
        (['scan:b1@64', '--variants', 'cpp+cuda_graph'], r'cpp\+cuda_graph needs a GPU'),
        (['scan:b1@64', '--device', 'cuda', '--variants', 'triton+compile'], 'is not a backend of the scan'),
        (['b1@64', 't2@64', 'b1@64', '--together'], 'with --together, each model can be there once'),
        (['b1@64', '--json', 'nowhere/out.json'], 'there is no folder nowhere'),
    ],
)
def test_what_cannot_be_compared(benchmark, words, message, capsys):
    with pytest.raises(SystemExit):
        benchmark.parse_args(words)
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize('together', [False, True])
def test_who_takes_turns(benchmark, together, monkeypatch):
    """The variants of each model, or those of all; ratios are to the first of them."""
    words = ['t2@64', 'b1@32x64', '--batch', '1', '2', '--threads', '1', '--variants', 'plain', 'deploy']
    args = benchmark.parse_args(words + ['--together'] * together)
    measured = []

    def measure(steps, seconds, device):
        measured.append(steps)
        return {
            key: sys.modules['timing'].summarise([number, number])
            for number, key in enumerate(steps, start=1)
        }

    monkeypatch.setattr(benchmark, 'make_steps', lambda *case: dict.fromkeys(args.variants))
    monkeypatch.setattr(benchmark, 'measure', measure)
    monkeypatch.setattr(torch, 'set_num_threads', lambda threads: None)
    found = [
        result
        for cases, threads in benchmark.groups(args)
        for result in benchmark.run_cases(cases, threads, args)
    ]
    models = [(result['model'], result['size'], result['batch']) for result in found[::2]]
    small, large = ('t2', (64, 64)), ('b1', (32, 64))
    if together:
        assert models == [(*small, 1), (*large, 1), (*small, 2), (*large, 2)]
        assert [result['ratio'] for result in found] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4] * 2)
    else:
        assert models == [(*small, 1), (*small, 2), (*large, 1), (*large, 2)]
        assert [result['ratio'] for result in found] == pytest.approx([1, 1 / 2] * 4)
    assert len(measured) == (2 if together else 4)


def test_scan_inputs(benchmark):
    """Stage 1 of B1 at 256 pixels: 8 x 8 positions, 256 channels."""
    args = benchmark.parse_args(['scan:b1@256', '--train', '--variants', 'cpp'])
    u, rows, dt_weight, A, D, dt_bias = benchmark.scan_inputs('b1', 1, (256, 256), 3, args)
    assert u.shape == (3, 64, 512) and rows.shape == (3, 64, 2, 18) and dt_weight.shape == (2, 512, 16)
    assert A.shape == D.shape == dt_bias.shape == (2, 512) and (A <= 0).all()
    assert all(tensor.requires_grad and tensor.is_leaf for tensor in (u, rows, dt_weight, A, D, dt_bias))


@pytest.mark.parametrize('text', ['b1', 'b1@', 'b1@axb', 'b1@1x2x3', '@224'])
def test_models_need_a_size(benchmark, text, capsys):
    with pytest.raises(SystemExit):
        benchmark.parse_args([text])
    assert 'is not NAME@SIDE or NAME@HEIGHTxWIDTH, such as b1@256' in capsys.readouterr().err


def run(tmp_path, *options):
    """What the script prints, and what it writes."""
    command = [
        sys.executable,
        str(SCRIPT),
        *options,
        '--seconds',
        '0.05',
        '--json',
        str(tmp_path / 'out.json'),
    ]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path).stdout
    return printed, json.loads((tmp_path / 'out.json').read_text())


def test_table_and_json(tmp_path):
    options = ('t2@64x96', '--batch', '2', '--threads', '1', '--train', '--memory')
    variants = ('baseline', 'plain')
    printed, written = run(tmp_path, *options, '--variants', *variants)
    lines = printed.splitlines()
    assert lines[0].startswith('processor ') and f'torch {torch.__version__.partition("+")[0]}' in lines[0]
    assert lines[1] == '| model | size | batch | threads | variant | ms | quartiles | ratio | MiB |'
    assert lines[3].startswith('| t2 | 64x96 | 2 | 1 | baseline |') and len(lines) == 5
    assert set(written) == {'machine', 'settings', 'results'}
    assert written['settings']['train'] and written['settings']['dtype'] == 'float32'
    for result, variant in zip(written['results'], variants):
        assert result['variant'] == variant and result['size'] == [64, 96] and result['batch'] == 2
        assert 0 < result['low'] <= result['median'] <= result['high'] and result['memory'] >= 0
    first, second = (result['median'] for result in written['results'])
    assert [result['ratio'] for result in written['results']] == [1, first / second]


def test_scans(tmp_path):
    _, written = run(tmp_path, 'scan:t2@64', '--batch', '1', '--variants', 'naive', 'torch')
    names = [(result['model'], result['variant']) for result in written['results']]
    stages = [f'scan:t2 stage {stage}' for stage in range(3)]
    assert names == [(stage, backend) for stage in stages for backend in ('naive', 'torch')]


def written(path, processor='A', threads=1, **results):
    """A file as the benchmark writes it, with a batch-1 and a batch-16 time of each model."""
    rows = [
        dict(model=name, size=[256, 256], batch=batch, threads=threads, variant=variant, median=median)
        for name, times in results.items()
        for (batch, variant), median in times.items()
    ]
    content = dict(machine=dict(processor=processor, torch='2.1'), results=rows)
    path.write_text(json.dumps(dict(content, settings=dict(dtype='float32', device='cpu', train=False))))
    return str(path)


def test_plot(tmp_path, monkeypatch):
    plot = load_script(ROOT / 'tools/analysis_tools/benchmark_plot.py')
    times = {(1, 'plain'): 50.0, (1, 'deploy'): 40.0, (16, 'deploy'): 400.0}
    file = written(tmp_path / 'a.json', b1=times, unknown=times)
    drawn = []
    monkeypatch.setattr(plot, 'draw', lambda axis, points, label: drawn.append(points))
    plot.main([file, '--out', str(tmp_path / 'a.png')])
    assert drawn == [{('b1', 256): 40.0}, {('b1', 256): 40.0}]  # ms, and images a second
    assert (tmp_path / 'a.png').read_bytes().startswith(b'\x89PNG')
    for other in (dict(processor='B'), dict(threads=2)):
        with pytest.raises(SystemExit):
            file_b = written(tmp_path / 'b.json', **other, b1=times)
            plot.main([file, file_b, '--out', str(tmp_path / 'b.png')])
    assert not (tmp_path / 'b.png').exists()
