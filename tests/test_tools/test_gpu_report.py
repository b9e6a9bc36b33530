"""The GPU report, run on a CPU: its measurements, and that failures do not stop it."""

import json
import re
import sys

import pytest
import torch

from ..conftest import ROOT, load_script
from ..helpers import needs_export

FOLDER = ROOT / 'tools/analysis_tools'
BROKEN = """
import torch

def make():
    class Broken(torch.nn.Conv2d):
        def forward(self, x):
            raise RuntimeError('nothing works here')
    return Broken(3, 4, 1)
"""
SMALL = ('--device', 'cpu', '--train-batch', '2', '--inference-batch', '2', '1', '--seconds', '0.02')
SMALL += ('--compile-backend', 'eager')
NETWORKS = ('t2@32', 'timm/mobilenetv3_small_050@32')
MEASURED = ('scan', 'training', 'tests', 'formats')  # not in the order of execution


pytestmark = needs_export  # it compiles, and compares exported networks


@pytest.fixture(scope='module')
def report():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        yield load_script(FOLDER / 'gpu_report.py')


@pytest.fixture(scope='module')
def measured(report, tmp_path_factory):
    """Results by part of a run with a broken network and a broken part; the tables and the folder."""
    pytest.importorskip('timm')
    folder = tmp_path_factory.mktemp('report')
    (folder / 'broken.py').write_text(BROKEN)
    tests = 'def test_on_a_gpu():\n    assert 1 + 1 == 2\n\n\ndef test_else():\n    assert 1 + 1 == 3\n'
    (folder / 'test_small.py').write_text(tests)
    models = [*NETWORKS, f'{folder}/broken.py:make@32']

    def fail(report):
        report.part('formats')
        raise ValueError('a part that fails')

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules['gpu_report_tests'], 'TESTS', ('test_small.py',))
        patch.setattr(sys.modules['gpu_report_tests'], 'ROOT', folder)
        patch.setattr(sys.modules['gpu_report_parts'], 'formats', fail)
        report.main(['--out', str(folder / 'out'), *SMALL, '--models', *models, '--only', *MEASURED])
    return *read(folder / 'out'), folder / 'out'


def read(folder):
    """Results by part, and the tables."""
    contents = {path.stem: json.loads(path.read_text()) for path in folder.glob('*.json')}
    return contents, (folder / 'report.md').read_text()


def test_parts(measured):
    contents, tables, _ = measured
    assert set(contents) == {'tests', 'training', 'scan', 'formats'}
    assert contents['tests']['passed'] and '1 passed' in contents['tests']['output']
    order = [line[3:] for line in tables.splitlines() if line.startswith('## ')]
    assert order == ['tests', 'training', 'scan', 'formats']
    for content in contents.values():
        assert content['machine']['torch'] == torch.__version__.partition('+')[0]
        assert content['settings']['device'] == 'cpu'


def test_training(measured):
    """Each network is measured uncompiled and compiled, in one memory format."""
    content = measured[0]['training']
    found = {}
    for row in content['results']:
        found.setdefault(row['model'], []).append(row)
        assert row['images_per_second'] == pytest.approx(2e3 / row['median']) and row['batch'] == 2
    assert set(found) == {'t2', 'timm/mobilenetv3_small_050'}
    for rows in found.values():
        assert [row['options'] for row in rows] == ['', 'compile']
        assert len({row['format'] for row in rows}) == 1
        assert [row.get('compile_seconds', 0) > 0 for row in rows] == [False, True]
    assert {row['format'] for row in found['t2']} == {'channels_last'}
    assert content['settings']['amp'] and content['settings']['dtype'] == 'bfloat16'
    assert '| t2 | 32x32 | amp |' in measured[1]


def test_a_broken_network_is_recorded(measured):
    (error,) = measured[0]['training']['errors']
    assert error['model'].endswith('broken.py:make') and error['what'] == 'warm-up'
    assert 'not compiled' not in measured[1]
    assert error['error'] == 'RuntimeError: nothing works here'
    assert 'RuntimeError: nothing works here' in measured[1]


def test_a_part_that_fails_is_recorded(measured):
    assert measured[0]['formats']['error'] == 'ValueError: a part that fails'
    assert '**ValueError: a part that fails**' in measured[1]


def test_scans(measured):
    rows = measured[0]['scan']['results']
    cases = {(row['stage'], row['train'], row['dtype']) for row in rows}
    assert len(cases) == len(rows) == 12 and all(row['median'] > 0 for row in rows)


def test_resume(report, measured, monkeypatch):
    """Existing results are not measured again, and no process is started for them."""
    contents, _, folder = measured
    monkeypatch.setattr(sys.modules['gpu_report_parts'], 'formats', lambda report: report.part('formats'))
    monkeypatch.setattr(sys.modules['gpu_report_pool'], 'Process', None)
    report.main(['--out', str(folder), *SMALL, '--models', *NETWORKS, '--only', *MEASURED, '--resume'])
    again, tables = read(folder)
    for name, content in contents.items():
        assert again[name]['results'] == content['results']
    assert again['tests']['output'] == contents['tests']['output'] and 'error' not in again['formats']
    assert '**' not in tables
    message = 'was measured with seconds 0.02, and here it is 1.0'
    with pytest.raises(SystemExit, match=message):
        report.main(['--out', str(folder), *SMALL, '--seconds', '1', '--models', 't2@32', '--resume'])


def test_the_time_is_up(report, tmp_path):
    report.main(['--out', str(tmp_path), *SMALL, '--models', 't2@32', '--only', 'training', '--limit', '0'])
    assert json.loads((tmp_path / 'training.json').read_text())['error'] == 'cut off: the time was up'


@pytest.fixture(scope='module')
def worker(report):
    module = sys.modules['gpu_report_worker']
    threads = torch.get_num_threads()
    yield module.Worker(module.Settings('cpu', 0.02, 'eager', False), 't2')
    torch.set_num_threads(threads)


def test_profile(report, worker):
    """Times by kind are complete, and most kinds occur."""
    module, parts = sys.modules['gpu_report_worker'], sys.modules['gpu_report_parts']
    kernels = worker.profile(module.Job('t2', (64, 64), 2, False, 'float32'), 'channels_last')
    times = [ms for _, _, ms in kernels]
    sums = parts.sums_by_kind(kernels)
    assert times == sorted(times, reverse=True) and sum(sums.values()) == pytest.approx(sum(times))
    assert sums['convolution, matmul'] > 0 and sums['elementwise, norm'] > 0


def test_kinds_of_kernels(report):
    names = {
        'scan': ['_scan_forward', '_link', '_summaries_0'],
        'convolution, matmul': [
            'sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc_tilesize128x128x64_execute',
            'nvjet_tst_128x64_64x8_2x1_v_bz_TNT',
            'void at::native::(anonymous namespace)::conv_depthwise2d_forward_kernel<3, float>',
            'void cutlass::Kernel2<cutlass_80_wmma_tensorop_bf16_s161616gemm_bf16_16x16_128x2_tn_align8>',
        ],
        'elementwise, norm': [
            'triton_poi_fused_convolution_relu_3',
            'void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>>',
            'void cudnn::bn_fw_tr_1C11_kernel_NCHW<float, float, int, 512, true, 1, true>',
            'void at::native::batch_norm_collect_statistics_channels_last_kernel<float>',
        ],
        'rest': ['Memset (Device)'],
    }
    kernels = [[name, 1, 1.0] for kind in names.values() for name in kind]
    sums = sys.modules['gpu_report_parts'].sums_by_kind(kernels)
    assert sums == {kind: len(listed) for kind, listed in names.items()}


def test_faster_peers(report):
    """Networks that are faster without being more accurate, by the fastest variant."""
    order = sys.modules['gpu_report_order']

    def row(model, size, rate):
        return dict(model=model, size=(size, size), batch=128, train=True, images_per_second=rate)

    rows = [row('s6', 224, 100), row('s6', 224, 200), row('timm/efficientnet_b0', 224, 300)]
    rows += [row('timm/efficientvit_m5', 224, 150), row('timm/repvit_m1_1', 224, 190)]
    rows += [row('timm/shvit_s4', 256, 400)]  # more accurate
    found = type('', (), dict(rows=lambda self, name: rows if name == 'training' else []))()
    found.train_batch, found.inference_batches = 128, [256]
    assert [job.model for job in order.faster_peers(found)] == ['s6', 'timm/efficientnet_b0']


def test_memory_bounds_what_runs_at_once(report):
    """Concurrent tasks must fit into memory together; a single task is always started."""
    pool = sys.modules['gpu_report_pool']
    sent = []

    class Connection:
        def __init__(self, name):
            self.send = lambda request: sent.append(name)

    workers = pool.Pool(None, 12 * pool.GIB)
    workers.workers = {
        name: type('', (), dict(connection=Connection(name)))() for name in ('a', 'b', 'c', 'd')
    }
    sizes = dict(a=4, b=4, c=1, d=20, gone=0)
    tasks = [pool.Task(name, name, 'compile', (), size * pool.GIB) for name, size in sizes.items()]
    busy, errors = {}, {}
    rest = workers._hand_out(tasks, busy, errors)
    assert sent == ['a', 'c'] and [task.key for task in rest] == ['b', 'd']
    assert errors == {'gone': 'its process was stopped before'}
    assert [task.key for task in workers._hand_out(rest[1:], {}, errors)] == [] and sent[-1] == 'd'


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--models', 'timm/repvit_m1_1@224'], '--models needs a MobileMamba, one of'),
        (['--models', 'b1@64', 'nowhere.py:make@64'], 'there is no file .*nowhere.py'),
        (['--only', 'everything'], "invalid choice: 'everything'"),
        (['--device', 'cuda'], 'PyTorch sees no GPU; --device cpu tries out'),
    ],
)
def test_what_cannot_be_measured(report, words, message, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(SystemExit):
        report.parse_args(['--out', str(tmp_path), *SMALL, *words])
    errors = ' '.join(capsys.readouterr().err.split())
    assert re.search(message, errors)


def test_published_accuracies(report):
    published = sys.modules['published']
    keys = [(entry.model, entry.size, entry.training) for entry in published.PUBLISHED]
    assert len(set(keys)) == len(keys)
    for entry in published.PUBLISHED:
        assert entry.training in (published.PLAIN, published.DISTILLED)
        assert entry.size in (192, 224, 240, 256, 384, 512) and 70 < entry.top1 < 85
        assert entry.epochs is None or 300 <= entry.epochs <= 3600
    for model, size in published.networks():
        kinds = published.accuracies(model, size)
        assert len({entry.label for entry in kinds.values()}) == 1
        if len(kinds) == 2:
            assert kinds[published.DISTILLED].top1 > kinds[published.PLAIN].top1
    assert published.accuracies('b1', 224) == {}
    for source in {entry.source for entry in (*published.PUBLISHED, *published.UNMEASURED)}:
        assert re.fullmatch(r'\d{4}\.\d{5}', source.paper)
        commit = r'https://github.com/[\w.-]+/[\w.-]+/blob/[0-9a-f]{40}/[\w./-]+'
        assert (
            re.fullmatch(commit, source.address) or source.address == f'https://arxiv.org/abs/{source.paper}'
        )


def test_published_networks_exist(report):
    timm = pytest.importorskip('timm')
    models = [model for model, _ in sys.modules['published'].networks()]
    ours = [model for model in models if not model.startswith('timm/')]
    assert set(ours) <= set(report.ARCHS)
    if timm.__version__ == '1.0.31':  # older versions have fewer
        assert all(timm.is_model(model[len('timm/') :]) for model in set(models) - set(ours))
