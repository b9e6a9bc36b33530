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
from ..helpers import needs_torch

SCRIPT = ROOT / 'tools/analysis_tools/benchmark.py'
FORMS = ('plain', 'deploy', 'deploy+torch', 'deploy+channels_last', 'deploy+prepare', 'baseline')
FORMS += tuple(
    pytest.param(f'{form}+compile', marks=needs_torch('2.5')) for form in ('plain', 'deploy+channels_last')
)
NETWORK = """
from torch import nn
from parts import Block

def make():
    return nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), Block())

def wrong():
    return 1
"""
PARTS = """
from torch import nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.deploy = nn.Conv2d(8, 8, 1), False

    def forward(self, x):
        return self.conv(x) if self.deploy else self.conv(x) + x

    def switch_to_deploy(self):
        self.conv.weight.data += nn.init.dirac_(self.conv.weight.data.clone())
        self.deploy = True
"""
MEMORY_OF_A_STEP = """
from types import SimpleNamespace

import benchmark
import torch

benchmark.make_steps = lambda *case: dict(plain=lambda: torch.ones(2**24).sum())
args = SimpleNamespace(device='cpu', tf32=False)
benchmark.peak_memory(SimpleNamespace(put=print), ('b1', (64, 64), 1), 1, 'plain', args)
"""


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
    out = benchmark.benchmark_models.make_variant(backbone, variant, image, 'aot_eager')(image)
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
@needs_torch('2.6')
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


@pytest.fixture
def networks(tmp_path, monkeypatch):
    """A file with networks, which imports its neighbour."""
    monkeypatch.setattr(sys, 'path', list(sys.path))
    for name, text in (('networks', NETWORK), ('parts', PARTS)):
        (tmp_path / f'{name}.py').write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield tmp_path / 'networks.py'
    for name in ('networks', 'parts'):
        sys.modules.pop(name, None)


@torch.no_grad()
def test_networks_of_a_file(benchmark, networks):
    """Folded by their own method, and their batch norms; compiled as a whole."""
    models = benchmark.benchmark_models
    model = models.build(f'{networks}:make')
    image = image_for((2, 3, 64, 64))
    folded = models.make_variant(model, 'deploy+channels_last+compile', image, 'aot_eager')
    assert isinstance(folded, torch._dynamo.OptimizedModule)
    assert not any(isinstance(module, _BatchNorm) for module in folded.modules())
    assert [module.deploy for module in folded.modules() if hasattr(module, 'deploy')] == [True]
    assert relative_error(folded(image), model(image)) < 1e-5


def test_files_without_a_network(benchmark, networks):
    models = benchmark.benchmark_models
    with pytest.raises(ValueError, match=r'there is no file .*nothing.py'):
        models.build(f'{networks.parent}/nothing.py:make')
    with pytest.raises(ValueError, match=r"there is no function 'missing' in .*networks.py"):
        models.build(f'{networks}:missing')
    with pytest.raises(ValueError, match=r'networks.py:wrong must return a torch.nn.Module, not int'):
        models.build(f'{networks}:wrong')


def test_reparameterize_stops_where_a_part_knows_how(benchmark):
    """What it does with its own parts is its own affair."""
    calls = []

    class Part(nn.Module):
        def reparameterize(self):
            calls.append(self)

    inner, outer, other = Part(), Part(), Part()
    outer.inner = inner
    benchmark.benchmark_models.reparameterize(nn.Sequential(outer, nn.Sequential(other)))
    assert calls == [outer, other]


@torch.no_grad()
def test_a_classifier_is_folded(benchmark):
    models = benchmark.benchmark_models
    model = models.randomise(models.Classifier(models.build('t2'))).eval()
    image = image_for((2, 3, 64, 64))
    folded = models.make_variant(model, 'deploy', image)
    assert model(image).shape == (2, 1000) and not model.backbone.deploy
    assert not any(isinstance(module, _BatchNorm) for module in folded.modules())
    assert relative_error(folded(image), model(image)) < 1e-4


def steps(benchmark, words, network, variant):
    """A step of a network on small images."""
    args = benchmark.parse_args(words)
    image = benchmark.random_images(2, (64, 64), args)
    return benchmark.make_step(network, variant, image, args)


@pytest.mark.parametrize('train', [False, True])
@needs_torch('2.4')
def test_amp(benchmark, train):
    """Parameters and images stay float32, the convolution computes in bfloat16; gradients are float32."""
    seen = []

    class Spy(nn.Conv2d):
        def forward(self, x):
            out = super().forward(x)
            seen.append((x.dtype, self.weight.dtype, out.dtype, torch.is_autocast_cache_enabled()))
            return out

    network = Spy(3, 4, 3).eval()
    words = ['b1@64', '--amp', '--dtype', 'bfloat16', '--variants', 'plain'] + ['--train'] * train
    steps(benchmark, words, network, 'plain')()
    for variant in ('plain+cuda_graph', 'plain+compile'):
        steps(benchmark, words, network, variant)()
    types = (torch.float32, torch.float32, torch.bfloat16)
    assert seen == [(*types, True), (*types, False), (*types, False)]
    assert (network.weight.grad is not None) == train == network.training
    assert not torch.is_autocast_enabled('cpu')


def test_images_have_the_memory_format_of_the_network(benchmark):
    seen = []
    words = ['b1@64', '--variants', 'plain']
    for variant in ('plain', 'plain+channels_last'):
        network = nn.Identity()
        network.register_forward_hook(lambda module, inputs, out: seen.append(out))
        steps(benchmark, words, network.eval(), variant)()
    assert [x.is_contiguous(memory_format=torch.channels_last) for x in seen] == [False, True]


def test_what_is_captured(benchmark, monkeypatch):
    """A compiled step has run often enough before that compilation is over."""
    monkeypatch.setattr(benchmark, 'capture', lambda step, warm_up=3: (step, warm_up))
    assert benchmark.captured('plain+compile', 'step') == 'step'
    assert benchmark.captured('plain+cuda_graph', 'step') == ('step', 3)
    assert benchmark.captured('plain+compile+cuda_graph', 'step') == ('step', benchmark.COMPILED_WARM_UP)


def test_prepared_for_a_gpu_in_the_type_of_the_images(benchmark, monkeypatch):
    """The GPU's form is its own function's, which chooses a type unless told."""
    calls = []
    monkeypatch.setattr(
        'mmmobilemamba.models.prepare_for_inference', lambda *args, **options: calls.append((args, options))
    )
    image = SimpleNamespace(device=torch.device('cuda'), dtype=torch.float32)
    benchmark.benchmark_models.prepare('network', image)
    assert calls == [(('network', image), dict(dtype=torch.float32))]


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
        benchmark.benchmark_models.fold_batch_norms(model, torch.rand(1, 3, 8, 8))


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
    timings = benchmark.measure({name: partial(step, name) for name in durations}, seconds=0.2)
    assert timings['short'].count == timings['long'].count == 5  # blocks of 0.04 s


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_memory_of_a_step():
    """64 MiB that a step allocates and frees, in a process where nothing else comes and goes."""
    command = [sys.executable, '-c', MEMORY_OF_A_STEP]
    done = subprocess.run(command, cwd=SCRIPT.parent, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert 56 < float(done.stdout) < 90


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
        (['b1@64', '--dtype', 'bfloat16', '--variants', 'deploy+prepare'], 'is for float32 on a CPU'),
        (['b1@64', '--device', 'cuda', '--variants', 'deploy+onnx'], 'is for float32 on a CPU'),
        (
            ['b1@64', '--device', 'cuda', '--variants', 'deploy+prepare+compile'],
            'compiles and captures by its',
        ),
        (['b1@64', '--device', 'cuda', '--variants', 'deploy+prepare+cuda_graph'], 'compiles and captures'),
        (
            ['b1@64', '--device', 'cuda', '--amp', '--dtype', 'float16', '--variants', 'deploy+prepare'],
            'takes --dtype without --amp',
        ),
        (['b1@64', '--train', '--device', 'cuda', '--variants', 'plain+prepare'], 'is for inference'),
        (['b1@64', '--amp'], '--amp needs --dtype bfloat16 or float16 to cast to, not float32'),
        (['b1@64', '--amp', '--dtype', 'float64'], '--amp needs --dtype bfloat16 or float16'),
        (['scan:b1@64', '--amp', '--dtype', 'bfloat16', '--variants', 'cpp'], '--amp is for networks'),
        (['b1@64', '--compile-backend', 'fast'], '--compile-backend fast is not one of'),
        (['b1@64', '--memory', '--variants', 'plain+compile'], '--memory would measure the compiler, too'),
        (['nowhere.py:make@64'], 'nowhere.py:make: there is no file .*nowhere.py'),
        (['timm/repvit_m1_1@224', 'nowhere.py:make@64'], 'there is no file'),
        (['b1@64', '--variants', 'deploy+onnx+onnx_fp16'], 'one exported form at a time'),
        (['b1@64', '--variants', 'deploy+torch+onnx'], 'one exported form at a time'),
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
    assert (
        lines[1] == '| model | size | batch | threads | variant | ms | quartiles | images/s | ratio | MiB |'
    )
    assert lines[3].startswith('| t2 | 64x96 | 2 | 1 | baseline |') and len(lines) == 5
    assert set(written) == {'machine', 'settings', 'results'}
    assert written['settings']['train'] and written['settings']['dtype'] == 'float32'
    for result, variant in zip(written['results'], variants):
        assert result['variant'] == variant and result['size'] == [64, 96] and result['batch'] == 2
        assert 0 < result['low'] <= result['median'] <= result['high'] and result['memory'] >= 0
        assert result['images_per_second'] == pytest.approx(2e3 / result['median'])
    first, second = (result['median'] for result in written['results'])
    assert [result['ratio'] for result in written['results']] == [1, first / second]


def test_scans(tmp_path):
    _, written = run(tmp_path, 'scan:t2@64', '--batch', '1', '--variants', 'naive', 'torch')
    names = [(result['model'], result['variant']) for result in written['results']]
    stages = [f'scan:t2 stage {stage}' for stage in range(3)]
    assert names == [(stage, backend) for stage in stages for backend in ('naive', 'torch')]


@needs_torch('2.5')
def test_a_network_of_a_file_is_compiled(networks, tmp_path):
    """In training, under autocast: what combines, from the command line."""
    options = ['t2@32', f'{networks}:make@32x64', '--batch', '2', '--train', '--amp', '--dtype', 'bfloat16']
    options += ['--variants', 'plain', 'plain+channels_last+compile', '--compile-backend', 'aot_eager']
    _, found = run(tmp_path, *options)
    assert [result['variant'] for result in found['results']] == options[-4:-2] * 2
    assert [result['model'] for result in found['results']] == ['t2'] * 2 + [f'{networks}:make'] * 2
    assert found['settings']['amp'] and found['settings']['compile_backend'] == 'aot_eager'


def written(path, processor='A', threads=1, train=False, device='cpu', **results):
    """A file as the benchmark writes it, with a batch-1 and a batch-16 time of each model."""
    rows = [
        dict(model=name, size=[256, 256], batch=batch, threads=threads, variant=variant, median=median)
        for name, times in results.items()
        for (batch, variant), median in times.items()
    ]
    content = dict(machine=dict(processor=processor, torch='2.1'), results=rows)
    settings = dict(dtype='float32', device=device, train=train)
    path.write_text(json.dumps(dict(content, settings=settings)))
    return str(path)


@pytest.fixture
def plot(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    return load_script(SCRIPT.with_name('benchmark_plot.py'))


TIMES = {(1, 'plain'): 50.0, (1, 'deploy'): 40.0, (16, 'deploy'): 400.0}


def test_plot(plot, tmp_path, monkeypatch):
    file = written(tmp_path / 'a.json', b1=TIMES, unknown=TIMES)
    drawn = []
    monkeypatch.setattr(plot, 'draw', lambda axis, points, label: drawn.append(points))
    plot.main([file, '--out', str(tmp_path / 'a.png')])
    assert drawn == [{('b1', 256): 40.0}, {('b1', 256): 40.0}]  # ms, and images a second
    assert (tmp_path / 'a.png').read_bytes().startswith(b'\x89PNG')
    for other in (dict(processor='B'), dict(threads=2), dict(device='cuda')):
        with pytest.raises(SystemExit):
            file_b = written(tmp_path / 'b.json', **other, b1=TIMES)
            plot.main([file, file_b, '--out', str(tmp_path / 'b.png')])
    with pytest.raises(SystemExit):
        plot.main([written(tmp_path / 'b.json', unknown=TIMES), '--out', str(tmp_path / 'b.png')])
    assert not (tmp_path / 'b.png').exists()


def test_plot_of_a_gpu(plot, tmp_path, monkeypatch):
    """Images/s of inference and of training, one picture each."""
    files = [
        written(
            tmp_path / f'{train}.json', train=train, device='cuda', b1={(128, 'plain'): 64.0 + 64 * train}
        )
        for train in (True, False)
    ]
    drawn = []
    monkeypatch.setattr(plot, 'draw', lambda axis, points, label: drawn.append((label, points)))
    plot.main([*files, '--out', str(tmp_path / 'a.png')])
    inference, training = 'inference, images/s, batch 128', 'training, images/s, batch 128'
    assert drawn == [(inference, {('b1', 256): 2000.0}), (training, {('b1', 256): 1000.0})]


def test_plot_keeps_kinds_of_training_apart(plot):
    """Two dots of one network, of two shapes, and a legend for them."""
    axis = plot.Figure().subplots()
    plot.draw(axis, {('b1', 256): 40.0, ('timm/efficientnet_b0', 224): 50.0}, 'ms')
    dots = [(line.get_marker(), line.get_ydata()[0], line.get_color()) for line in axis.lines]
    assert dots == [('o', 79.9, 'tab:red'), ('^', 82.2, 'tab:red'), ('o', 77.1, 'tab:gray')]
    legend = [text.get_text() for text in axis.get_legend().get_texts()]
    assert legend == ['plain training', 'distilled training']
    names = [text.get_text() for text in axis.texts if text.get_visible()]
    assert names == ['MobileMamba-B1', 'MobileMamba-B1', 'EfficientNet-B0']


def test_machine_with_a_gpu(benchmark, monkeypatch):
    """Its memory, libraries, and driver are named."""
    timing = sys.modules['timing']
    properties = SimpleNamespace(name='NVIDIA H100', total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, 'get_device_properties', lambda device: properties)
    monkeypatch.setattr(timing.shutil, 'which', lambda name: f'/bin/{name}')
    answer = SimpleNamespace(returncode=0, stdout='580.1\n580.1\n')
    monkeypatch.setattr(timing.subprocess, 'run', lambda *args, **options: answer)
    found = benchmark.describe_machine('cuda')
    assert found['gpu'] == 'NVIDIA H100' and found['gpu_memory'] == '80 GiB' and found['driver'] == '580.1'
    assert {'cuda', 'cudnn'} <= set(found) and 'gpu' not in benchmark.describe_machine('cpu')
