"""The order of measurements in a GPU report, and its behaviour when time is short; with simulated workers."""

import json
import sys
from argparse import Namespace
from types import SimpleNamespace

import pytest

from ..conftest import ROOT, load_script

FOLDER = ROOT / 'tools/analysis_tools'
MACHINE = dict(gpu='A GPU', torch='2.11.0', cores='16')
# Seconds on a machine with a GPU and 16 cores, measured or estimated upwards.
START, WARM_UP, COMPILE, TESTS = 25, 25, dict(train=70, infer=20), 80


@pytest.fixture(scope='module')
def modules():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        report = load_script(FOLDER / 'gpu_report.py')
        names = ('networks', 'parts', 'order', 'results', 'tests', 'worker', 'pool')
        yield SimpleNamespace(report=report, **{name: sys.modules[f'gpu_report_{name}'] for name in names})


class Clock:
    """A simulated clock."""

    now = 1000.0

    def monotonic(self):
        return self.now


class Workers:
    """Replaces the pool: results are made up and only take time on the simulated clock."""

    def __init__(self, clock, seconds):
        self.clock, self.seconds = clock, seconds
        self.workers, self.pending, self.log, self.compiled = {}, [], [], set()

    def start(self, models, limit):
        self.clock.now += min(START, limit)
        self.workers.update(models)
        return {}

    def parallel(self, tasks, limit):
        """Workers run in parallel, and each runs its tasks in sequence."""
        begin, values, errors, events = self.clock.now, {}, {}, list(tasks)
        self.log.append([(task.method, task.key.job) for task in tasks])
        free = {}
        while events:
            task = min(events, key=lambda task: free.get(task.worker, begin))
            events.remove(task)
            end = free[task.worker] = free.get(task.worker, begin) + self.seconds(self, task)
            if end > begin + limit:
                errors[task.key] = 'not ready'
                continue
            self.clock.now = max(self.clock.now, end)
            self.pending = [other.key for other in events]
            values[task.key] = end - begin
            events += (task.done(end - begin) or []) if task.done else []
        self.clock.now = begin + limit if errors else self.clock.now
        return values, errors

    def alone(self, name, method, *arguments, limit):
        timing = dict(median=1.0, low=1.0, high=1.0, count=5, images_per_second=1000.0)
        self.clock.now += dict(time_uncompiled=3, time=1.5, time_scan=0.6, profile=2, time_formats=3)[method]
        job, *rest = arguments
        self.log.append((method, job))
        if method == 'time_uncompiled':
            timing['images_per_second'] += len(job.model)
            return 'channels_last', dict.fromkeys(rest[1], timing)
        if method == 'time_formats':
            return dict(channels_last=timing, channels_first=timing)
        return [['kernel', 1, 1.0]] if method == 'profile' else timing

    def close(self):
        pass


def seconds(workers, task):
    """Duration of a task, as observed in such runs."""
    if task.method != 'compile':
        return 3 if task.method == 'warm_up_scan' else WARM_UP / 2
    if task.arguments in workers.compiled:
        return 0.1
    workers.compiled.add(task.arguments)
    return COMPILE['train' if task.key.job.train else 'infer']


@pytest.fixture
def run(modules, monkeypatch, tmp_path):
    """Run a report and return it; its clock starts at zero."""

    def run(limit=540, **options):
        clock = Clock()
        for name in ('report', 'networks', 'parts', 'tests'):
            monkeypatch.setattr(getattr(modules, name), 'time', clock)
        monkeypatch.setattr(modules.report, 'describe_machine', lambda device: dict(MACHINE))
        monkeypatch.setattr(modules.report, 'GpuTests', lambda: QuickTests(clock))
        monkeypatch.setattr(modules.parts, 'compile_time', compile_time)
        for name in ('networks', 'parts'):
            monkeypatch.setattr(getattr(modules, name), 'WIDTH', 4)
        args = modules.report.parse_args(['--out', str(tmp_path), '--device', 'cpu', '--limit', str(limit)])
        report = modules.report.Report(Namespace(**{**vars(args), **options}))
        report.on_gpu, report.precisions = True, ('tf32', 'float32')
        report.pool = Workers(clock, seconds)
        report.run(modules.report.NAMES)
        return report

    return run


class QuickTests:
    """Replaces the tests for GPUs."""

    def __init__(self, clock):
        self.clock, self.begin = clock, clock.now

    def wait(self, seconds):
        self.clock.now += seconds

    def finish(self, part, end):
        self.clock.now = max(self.clock.now, self.begin + TESTS)
        part.content.update(passed=True, seconds=TESTS, output='')
        part.save()


def compile_time(report):
    """Replaces the part of this name."""
    part = report.part('compile_time')
    if not part.find():
        report.pool.clock.now += 80
        part.add(dict(first_step=60.0, second_step=0.1))


def compiled(report, name):
    """Compiled networks of a part in order, without duplicates."""
    rows = [row for row in report.rows(name) if 'compile' in row['options']]
    return list(dict.fromkeys(row['model'] for row in rows))


def test_the_most_important_comes_first(run):
    """Within the time limit: the first waves, and each part that measures a single network."""
    report = run()
    assert report.elapsed() < 545
    for name in ('training', 'inference'):
        assert len({row['model'] for row in report.rows(name) if row['options'] == 'cuda_graph'}) == 15
        assert compiled(report, name)[0] == 'b1' and len(compiled(report, name)) >= 4
        assert not {'t2', 't4', 's6'} & set(compiled(report, name)[:4])
    assert len(report.rows('scan')) == 12 and len(report.rows('compile_time')) == 1
    assert {row['model'] for row in report.rows('profile')} == {'b1'} and len(report.rows('formats')) > 0
    assert 'not compiled' in (report.out / 'report.md').read_text()


def test_a_second_run_measures_the_rest(run, capsys):
    first = run()
    rows = {name: list(first.rows(name)) for name in first.names}
    second = run(limit=3000, resume=True)
    for name in ('training', 'inference'):
        assert len(compiled(second, name)) == 15
        keys = [(row['model'], row['batch'], row['options']) for row in second.rows(name)]
        assert len(set(keys)) == len(keys)
        assert 'skipped: ' not in (second.out / 'report.md').read_text()
    for name, before in rows.items():
        assert json.dumps(second.rows(name)[: len(before)]) == json.dumps(before)
    assert len(second.rows('scan')) == 12 and not second.part('training').content['skipped']
    uncompiled = [entry for entry in second.pool.log if entry[0] == 'time_uncompiled']
    assert uncompiled == [] and 'not compiled' not in (second.out / 'report.md').read_text()
    assert len(second.rows('profile')) > 2
    third = run(limit=3000, resume=True)
    assert third.pool.log == []


@pytest.mark.parametrize(
    ('changed', 'message'),
    [
        (dict(gpu='Another GPU'), 'training.json was measured with gpu A GPU, and here it is Another GPU'),
        (dict(torch='2.12.0'), 'with torch 2.11.0, and here it is 2.12.0'),
        (dict(cores='8'), None),
    ],
)
def test_results_of_another_machine(modules, changed, message, tmp_path):
    settings = modules.worker.Settings('cuda', 0.3, 'inductor', False)
    content = dict(part='training', machine=MACHINE, settings=settings._asdict(), results=[])
    (tmp_path / 'training.json').write_text(json.dumps(content))
    load = modules.results.load
    if message is None:
        assert load(tmp_path, ['training', 'scan'], {**MACHINE, **changed}, settings) == {'training': content}
    else:
        with pytest.raises(ValueError, match=message):
            load(tmp_path, ['training'], {**MACHINE, **changed}, settings)
    with pytest.raises(ValueError, match=r'with seconds 0.3, and here it is 1.0'):
        load(tmp_path, ['training'], MACHINE, settings._replace(seconds=1.0))


def test_order_of_waves(modules):
    Job = modules.worker.Job

    def job(model, size=224, precision='bfloat16', batch=256):
        return Job(model, (size, size), batch, False, precision)

    b1, s6 = job('b1', 256), job('s6')
    small, slow = job('timm/efficientvit_m5'), job('timm/mobileone_s2')
    better = job('timm/repvit_m1_1')._replace(size=(224, 224))
    unknown, exact = job('timm/resnet18'), job('b1', 256, 'float32')
    single = small._replace(batch=1)
    rates = {small: 900.0, slow: 500.0, better: 700.0, unknown: 2000.0, single: 1.0, s6: 3000.0}
    jobs = [exact, unknown, s6, slow, small, single, b1]
    found = modules.order.waves(jobs, ('b1', (256, 256)), rates, 2)
    assert found == [[b1, small, single], [slow, s6], [unknown, exact]]
    # RepViT is less accurate in the kind of training that is published for it.
    assert modules.order.waves([better, slow], ('b1', (256, 256)), rates, 1) == [[better], [slow]]


def test_time_is_short(modules, run):
    """A wave is skipped if less time is left than the last one took; the other kind continues."""
    report = run(limit=620)
    skipped = {name: report.part(name).content['skipped'] for name in ('training', 'inference')}
    assert len(compiled(report, 'inference')) > 4
    assert skipped['training'] and all('the last one took' in text for text in skipped['training'])
    assert report.elapsed() <= 625


def test_cut_off(run):
    """Results measured before the interruption are complete."""
    report = run(limit=150)
    content = json.loads((report.out / 'training.json').read_text())
    assert content['error'] == 'cut off: the time was up' and report.elapsed() <= 155
    assert {row['options'] for row in content['results']} == {'', 'cuda_graph'}
