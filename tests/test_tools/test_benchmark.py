"""The benchmark: variants are equivalent, measurements are correct, and output is complete."""

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
from ..helpers import SMALL, needs_export, needs_torch, randomise

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

def wide(width):
    return nn.Conv2d(3, width, 3)
"""
PACKAGE = """
from .parts import Block

class Network(Block):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)

    def forward(self, x):
        return super().forward(self.stem(x))
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
    """Including the baseline, which is only slower."""
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
@pytest.mark.parametrize(
    ('option', 'bound'),
    [
        ('onnx', 1e-5),
        ('onnx_custom', 1e-5),
        ('onnx_fp16', 1e-2),
        ('onnx_int8', 0.2),
        ('onnx_custom_int8', 0.2),
    ],
)
@needs_export
def test_every_precision_is_the_network(benchmark, option, bound):
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    backbone, image = randomise(MobileMamba(dict(SMALL, depths=(1, 1, 1)))), image_for((2, 3, 96, 128))
    out = benchmark.benchmark_models.make_variant(backbone, f'deploy+{option}', image)(image)
    assert relative_error(torch.from_numpy(out[-1]), backbone(image)[-1]) < bound


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
    """A file with networks that imports a neighbouring module."""
    monkeypatch.setattr(sys, 'path', list(sys.path))
    for name, text in (('networks', NETWORK), ('parts', PARTS)):
        (tmp_path / f'{name}.py').write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield tmp_path / 'networks.py'
    for name in ('networks', 'parts'):
        sys.modules.pop(name, None)


@torch.no_grad()
def test_networks_of_a_file(benchmark, networks):
    """They are folded by their own method and batch norm folding, and compiled as a whole."""
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
    with pytest.raises(ValueError, match=r"wide is called without arguments: missing a required .*'width'"):
        models.build(f'{networks}:wide')
    (networks.parent / 'broken.py').write_text('import no_such_package')
    with pytest.raises(ValueError, match=r"broken.py cannot be imported: No module named 'no_such_package'"):
        models.build(f'{networks.parent}/broken.py:make')


def test_a_file_of_a_package(benchmark, networks):
    """It can use relative imports, and a class counts as a function."""
    folder = networks.parent / 'a_package'
    folder.mkdir()
    for name, text in (('__init__', ''), ('parts', PARTS), ('network', f'from torch import nn\n{PACKAGE}')):
        (folder / f'{name}.py').write_text(text)
    network = benchmark.benchmark_models.build(f'{folder}/network.py:Network')
    assert type(network).__module__ == 'a_package.network' and not network.training
    folder.rename(networks.parent / 'elsewhere')
    (networks.parent / 'other').mkdir()
    (networks.parent / 'elsewhere').rename(networks.parent / 'other/a_package')
    with pytest.raises(ValueError, match=r"cannot be imported: the package 'a_package' is that of"):
        benchmark.benchmark_models.build(f'{networks.parent}/other/a_package/network.py:Network')
    for name in [name for name in sys.modules if name.startswith('a_package')]:
        sys.modules.pop(name)


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('b5', r"b5 is not one of \['b1', .*\], timm/NAME, PATH.py:FUNCTION or the path of a config"),
        ('timm/repvit_m9_9', r"timm .* has no 'repvit_m9_9'; similar: \[.*'repvit_m0_9'"),
        ('nowhere.py:make', 'there is no file .*nowhere.py'),
        (str(SCRIPT), r'benchmark.py is no config; .*, write .*benchmark.py:FUNCTION'),
    ],
)
def test_unknown_models(benchmark, name, message, capsys):
    """The error occurs before any measurement."""
    pytest.importorskip('timm')
    with pytest.raises(SystemExit):
        benchmark.parse_args(['t2@64', f'{name}@64'])
    assert re.search(message, capsys.readouterr().err)


def test_reparameterize_stops_where_a_part_knows_how(benchmark):
    """A module with its own method handles its children itself."""
    calls = []

    class Part(nn.Module):
        def reparameterize(self):
            calls.append(self)

    inner, outer, other = Part(), Part(), Part()
    outer.inner = inner
    benchmark.benchmark_models.reparameterize(nn.Sequential(outer, nn.Sequential(other)))
    assert calls == [outer, other]


def test_fuse_may_return_another_module(benchmark):
    class Part(nn.Module):
        def fuse(self):
            return nn.Identity()

    folded = benchmark.benchmark_models.reparameterize(nn.Sequential(nn.ReLU(), Part()))
    assert [type(module) for module in folded] == [nn.ReLU, nn.Identity]


@torch.no_grad()
def test_a_classifier_is_folded(benchmark):
    models = benchmark.benchmark_models
    model = models.build('t2', classifier=True)
    image = image_for((2, 3, 64, 64))
    folded = models.make_variant(model, 'deploy', image)
    assert model(image).shape == (2, 1000) and not model.backbone.deploy
    assert not any(isinstance(module, _BatchNorm) for module in folded.modules())
    assert relative_error(folded(image), model(image)) < 1e-4


def steps(benchmark, words, network, variant):
    """A benchmark step of a network on small images."""
    args = benchmark.parse_args(words)
    image = benchmark.random_images(2, (64, 64), args)
    return benchmark.make_step(network, variant, image, args)


@pytest.mark.parametrize('train', [False, True])
@needs_torch('2.4')
def test_amp(benchmark, train):
    """Parameters, images and gradients are float32; the convolution runs in bfloat16."""
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
    """A compiled step is run before the capture until compilation is complete."""
    monkeypatch.setattr(benchmark, 'capture', lambda step, warm_up=3: (step, warm_up))
    assert benchmark.captured('plain+compile', 'step') == 'step'
    assert benchmark.captured('plain+cuda_graph', 'step') == ('step', 3)
    assert benchmark.captured('plain+compile+cuda_graph', 'step') == ('step', benchmark.COMPILED_WARM_UP)


def test_prepared_for_a_gpu_in_the_type_of_the_images(benchmark, monkeypatch):
    """The GPU form comes from prepare_for_gpu, which chooses a dtype unless it is given."""
    calls = []
    monkeypatch.setattr(
        'mmmobilemamba.models.prepare_for_inference', lambda *args, **options: calls.append((args, options))
    )
    image = SimpleNamespace(device=torch.device('cuda'), dtype=torch.float32)
    benchmark.benchmark_models.prepare('network', image)
    assert calls == [(('network', image), dict(dtype=torch.float32))]


@torch.no_grad()
def test_a_convolution_with_other_users_is_not_folded(benchmark):
    """Its norm is kept, as in the attention of FastViT; the other norm is folded."""

    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
            self.conv, self.bn = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x):
            x = self.conv(self.stem(x))
            return x + self.bn(x)

    model = benchmark.benchmark_models.randomise(Shared()).eval()
    image = image_for((1, 3, 8, 8))
    folded = benchmark.benchmark_models.make_variant(model, 'deploy', image)
    assert [name for name, m in folded.named_modules() if isinstance(m, _BatchNorm)] == ['bn']
    assert relative_error(folded(image), model(image)) < 1e-5


def test_a_convolution_that_is_called_twice_is_an_error(benchmark):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)

        def forward(self, x):
            return self.bn(self.conv(self.conv(x)))

    model = benchmark.benchmark_models.randomise(Twice()).eval()
    with pytest.raises(RuntimeError, match='a convolution is called twice'):
        benchmark.benchmark_models.fold_batch_norms(model, torch.rand(1, 3, 8, 8))


def test_measure(benchmark, monkeypatch):
    """With a clock that only advances in the measured functions."""
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
    """A step allocates and frees 64 MiB, in a process without other allocations."""
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
        (['b1@64', '--classifier', '--variants', 'baseline'], 'the baseline is that of a backbone'),
        (['scan:b1@64', '--costs', '--variants', 'cpp'], '--costs is for networks, not for scan:b1'),
    ],
)
def test_what_cannot_be_compared(benchmark, words, message, capsys):
    with pytest.raises(SystemExit):
        benchmark.parse_args(words)
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize('together', [False, True])
def test_who_takes_turns(benchmark, together, monkeypatch):
    """Variants of each model or of all models alternate; ratios are relative to the first one."""
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
    """Stage 1 of B1 at 256 px: 8 x 8 positions, 256 channels."""
    args = benchmark.parse_args(['scan:b1@256', '--train', '--variants', 'cpp'])
    u, rows, dt_weight, A, D, dt_bias = benchmark.scan_inputs('b1', 1, (256, 256), 3, args)
    assert u.shape == (3, 64, 512) and rows.shape == (3, 64, 2, 18) and dt_weight.shape == (2, 512, 16)
    assert A.shape == D.shape == dt_bias.shape == (2, 512) and (A <= 0).all()
    assert all(tensor.requires_grad and tensor.is_leaf for tensor in (u, rows, dt_weight, A, D, dt_bias))


def test_published_networks(benchmark):
    """All networks that can be measured, once each, at the input sizes of their accuracies."""
    models = benchmark.parse_args(['published', 't2@64']).models
    assert models[0] == ('t2', 192, 192) and ('timm/efficientvim_m4', 256, 256) in models
    assert models[-1] == ('t2', 64, 64) and len(set(models)) == len(models) > 30


@pytest.mark.parametrize('text', ['b1', 'b1@', 'b1@axb', 'b1@1x2x3', '@224'])
def test_models_need_a_size(benchmark, text, capsys):
    with pytest.raises(SystemExit):
        benchmark.parse_args([text])
    assert 'is not NAME@SIDE or NAME@HEIGHTxWIDTH, such as b1@256' in capsys.readouterr().err


def run(tmp_path, *options):
    """Run the script; returns its output and the content of its file."""
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


def test_costs(benchmark, networks, tmp_path):
    """Costs of the deployed network: two convolutions with biases, without shortcut and norm."""
    printed, found = run(tmp_path, f'{networks}:make@34', '--variants', 'plain', 'deploy', '--costs')
    parameters, flops = 8 * (27 + 1) + 8 * (8 + 1), 32 * 32 * (8 * 27 + 8 * 8)
    assert [(row['parameters'], row['flops']) for row in found['results']] == [(parameters, flops)] * 2
    lines = printed.splitlines()
    assert lines[1].endswith('| ratio | M parameters | M FLOPs |') and lines[3].endswith('| 0.00 | 0.29 |')


def test_costs_with_a_classifier(benchmark):
    """The head of T2 is a 368 x 1000 matrix with a bias."""
    build, count = benchmark.benchmark_models.build, benchmark.count_costs
    (bare, whole) = (count(build('t2', classifier), (64, 64)) for classifier in (False, True))
    assert whole['parameters'] - bare['parameters'] == 369_000
    assert 368_000 <= whole['flops'] - bare['flops'] <= 369_000


def test_scans(tmp_path):
    _, written = run(tmp_path, 'scan:t2@64', '--batch', '1', '--variants', 'naive', 'torch')
    names = [(result['model'], result['variant']) for result in written['results']]
    stages = [f'scan:t2 stage {stage}' for stage in range(3)]
    assert names == [(stage, backend) for stage in stages for backend in ('naive', 'torch')]


@needs_torch('2.5')
def test_a_network_of_a_file_is_compiled(networks, tmp_path):
    """In training, under autocast, from the command line."""
    options = ['t2@32', f'{networks}:make@32x64', '--batch', '2', '--train', '--amp', '--dtype', 'bfloat16']
    options += ['--variants', 'plain', 'plain+channels_last+compile', '--compile-backend', 'aot_eager']
    _, found = run(tmp_path, *options)
    assert [result['variant'] for result in found['results']] == options[-4:-2] * 2
    assert [result['model'] for result in found['results']] == ['t2'] * 2 + [f'{networks}:make'] * 2
    assert found['settings']['amp'] and found['settings']['compile_backend'] == 'aot_eager'


def test_machine_with_a_gpu(benchmark, monkeypatch):
    """Memory, libraries and driver are included."""
    timing = sys.modules['timing']
    properties = SimpleNamespace(name='NVIDIA H100', total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, 'get_device_properties', lambda device: properties)
    monkeypatch.setattr(timing.shutil, 'which', lambda name: f'/bin/{name}')
    answer = SimpleNamespace(returncode=0, stdout='580.1\n580.1\n')
    monkeypatch.setattr(timing.subprocess, 'run', lambda *args, **options: answer)
    found = benchmark.describe_machine('cuda')
    assert found['gpu'] == 'NVIDIA H100' and found['gpu_memory'] == '80 GiB' and found['driver'] == '580.1'
    assert {'cuda', 'cudnn'} <= set(found) and 'gpu' not in benchmark.describe_machine('cpu')
