"""The zoo demo with a simulated mim: executed and skipped steps, the table, and the exit status."""

import json
import os
import re
import sys
import time
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from PIL import Image

from ..conftest import ROOT, load_script

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(ROOT / 'tools/misc')
    zoo_demo = load_script('tools/misc/zoo_demo.py')
    import zoo_tasks
zoo_table = load_script('tools/analysis_tools/zoo_table.py')

FAKE_MIM = """#!{python}
import json, sys, time
from pathlib import Path
verb, package, config, *options = sys.argv[1:]
plan = json.loads(Path('plan.json').read_text())
with open('calls.jsonl', 'a') as calls:
    calls.write(json.dumps(sys.argv[1:]) + '\\n')
name, work = Path(config).stem, Path(options[options.index('--work-dir') + 1])
work.mkdir(parents=True, exist_ok=True)
if verb == 'train':
    time.sleep(0.2)  # seconds are kept to one decimal
    (work / 'epoch_1.pth').write_text(name)
    (work / 'last_checkpoint').write_text('/elsewhere/epoch_1.pth')
    if name in plan['broken']:
        print('Traceback (most recent call last):')
        sys.exit('out of digits\\nTraceback (most recent call last):\\nsubprocess.CalledProcessError: no')
else:
    (work / '20260101_000000' / 'vis_data').mkdir(parents=True)
    scores = work / '20260101_000000' / '20260101_000000.json'
    scores.write_text(json.dumps(plan['scores'][name]))
"""
FAKE_DRAW = """
import sys
from pathlib import Path
from PIL import Image
config, predictions, out = map(Path, sys.argv[1:4])
out.mkdir(exist_ok=True)
Image.new('RGB', (60, 40), 'red' if config.stem == 'first' else 'blue').save(out / 'overview.png')
"""
FAKE_DATA = """
import json, sys
from pathlib import Path
manifest, wanted = Path(sys.argv[1]) / 'manifest.json', Path('wanted.json').read_text()
if not manifest.is_file():
    manifest.parent.mkdir(parents=True)
    manifest.write_text(wanted)
if manifest.read_text() != wanted:
    sys.exit('digits_scenes.py: error: another dataset')
"""
SCENES = {'train': 6000, 'val': 200, 'seed': 0, 'size': 160}
CONFIG = """
default_scope, lr, model = '{package}', 0.1, dict(teacher=None)
train_dataloader = dict(dataset={dataset})
"""
DATASETS = {
    'first': dict(indices=2000),
    'second': dict(type='RepeatDataset', dataset=dict(indices=-1500)),
    'pupil': dict(type='CustomDataset'),
}
BOX, MASK = zoo_tasks.BOX, zoo_tasks.MASK
TASKS = (
    zoo_tasks.Task('first', 'The First', 'mmdet', 'a/first.py', (BOX, MASK)),
    zoo_tasks.Task('second', 'The Second', 'mmseg', 'b/second.py', zoo_tasks.MIOU),
    zoo_tasks.Task(
        *('pupil', 'The Pupil', 'mmpretrain', 'b/pupil*.py', zoo_tasks.TOP1, 'first', 'model.teacher'),
        limit=None,
    ),
)
GOOD = {
    'first': {'coco/bbox_mAP': 0.587, 'coco/segm_mAP': 0.45, 'time': 1},
    'second': {'aAcc': 99, 'mIoU': 61.25},
    'pupil': {'accuracy/top1': 96.123456},
}


class Zoo:
    """A folder with configs, a simulated mim that follows ``plan``, and a record of its calls."""

    def __init__(self, folder):
        self.folder, self.work = folder, folder / 'work'
        self.plan(GOOD)
        self.want(SCENES, version=1)

    def want(self, arguments, version):
        """Set the arguments and version that the simulated scene generator produces and accepts."""
        content = {'arguments': arguments, 'version': version}
        (self.folder / 'wanted.json').write_text(json.dumps(content))

    def plan(self, scores, broken=()):
        (self.folder / 'plan.json').write_text(json.dumps({'scores': scores, 'broken': list(broken)}))

    def run(self, *options, fails=False):
        """Run the demo; returns mim's calls (list[list[str]]), with ``fails`` also the error message."""
        calls = self.folder / 'calls.jsonl'
        calls.write_text('')
        words = None
        if fails:
            with pytest.raises(SystemExit) as stop:
                zoo_demo.main(['--work-dir', 'work', *options])
            words = stop.value.code
            assert isinstance(words, str)  # written to stderr, with exit status 1
        else:
            zoo_demo.main(['--work-dir', 'work', *options])
        made = [json.loads(line) for line in calls.read_text().splitlines()]
        return (made, words) if fails else made

    def steps(self, *options):
        """Steps run by the demo: list of (verb, name of the config)."""
        return [(call[0], Path(call[2]).stem) for call in self.run(*options)]

    def rows(self):
        """Rows of the table below its header."""
        lines = (self.work / 'table.md').read_text().splitlines()
        return [line for line in lines if line.startswith('| The')]

    def result(self, task):
        return json.loads((self.work / task / 'result.json').read_text())


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    for task in TASKS:
        config = tmp_path / 'configs' / task.config.replace('*', '')
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(CONFIG.format(package=task.package, dataset=DATASETS[task.name]))
    for name, text in {'mim': FAKE_MIM, 'draw.py': FAKE_DRAW, 'data.py': FAKE_DATA}.items():
        (tmp_path / name).write_text(text.replace('{python}', sys.executable))
    (tmp_path / 'mim').chmod(0o755)
    monkeypatch.chdir(tmp_path)
    for name, value in {'ROOT': tmp_path, 'MIM': tmp_path / 'mim', 'TASKS': TASKS}.items():
        monkeypatch.setattr(zoo_demo, name, value)
    monkeypatch.setattr(zoo_demo, 'DRAW', tmp_path / 'draw.py')
    monkeypatch.setattr(zoo_demo, 'MAKE_DATA', tmp_path / 'data.py')
    monkeypatch.setattr(zoo_demo, 'count_parameters', lambda config: 1234567)
    return Zoo(tmp_path)


def test_commands(zoo):
    calls = zoo.run('--cfg-options', 'lr=0.2')
    configs = {task.name: str(zoo.folder / 'configs' / task.config.replace('*', '')) for task in TASKS}
    first, second, pupil = (f'work/{task.name}' for task in TASKS)
    changed = ['--cfg-options', 'lr=0.2']
    taught = [*changed, 'model.teacher=work/first/train/epoch_1.pth']

    def test(folder, out):
        files = ['--checkpoint', f'{folder}/train/epoch_1.pth', '--work-dir', f'{folder}/test']
        return ['--gpus', '0', *files, '--out', f'{folder}/{out}']

    def train(folder):
        return ['--gpus', '0', '--work-dir', f'{folder}/train']

    assert calls == [
        ['train', 'mmdet', configs['first'], *train(first), *changed],
        ['test', 'mmdet', configs['first'], *test(first, 'predictions.pkl'), *changed],
        ['train', 'mmseg', configs['second'], *train(second), *changed],
        ['test', 'mmseg', configs['second'], *test(second, 'predictions'), *changed],
        ['train', 'mmpretrain', configs['pupil'], *train(pupil), *taught],
        ['test', 'mmpretrain', configs['pupil'], *test(pupil, 'predictions.pkl'), *taught],
    ]
    log = (zoo.work / 'pupil' / 'log.txt').read_text()
    assert '--number 8 --columns 8 --scale 2 --score-thr 0.5 --cfg-options lr=0.2 model.teacher=' in log
    assert '--number 4 --columns 4 --scale 2' in (zoo.work / 'second' / 'log.txt').read_text()


def test_table_and_sheet(zoo):
    zoo.run()
    for row in zoo.rows():
        times = [float(cell.split()[0]) for cell in row.split('|') if cell.endswith(' min ')]
        assert len(times) == 3 and all(0 <= time < 2 for time in times)
    assert [re.sub(r'\d\.\d( of 12)? min', r'0.0\1 min', row) for row in zoo.rows()] == [
        '| The First | `configs/a/first.py` | 2000 scenes | bbox mAP 0.587 (target 0.5), segm mAP 0.45 '
        '(target 0.45) | 0.0 min | 0.0 min | 0.0 of 12 min | yes | 1.23 M |',
        '| The Second | `configs/b/second.py` | 1500 scenes | mIoU 61.25 (target 60) | 0.0 min | 0.0 min '
        '| 0.0 of 12 min | yes | 1.23 M |',
        '| The Pupil | `configs/b/pupil.py` | crops of 6000 scenes | top-1 96.12 (target 95) | 0.0 min '
        '| 0.0 min | 0.0 min | yes | 1.23 M |',
    ]
    text = (zoo.work / 'table.md').read_text()
    line = 'version 1, seed 0, 160 pixels: 6000 training and 200 validation scenes'
    assert text.count(line) == text.count('Data: ') == 1
    assert text.count(f'{os.cpu_count()} cores, device cpu, {torch.get_num_threads()} threads, float32') == 1
    assert str(zoo.folder) not in text + (zoo.work / 'table.json').read_text()

    states = json.loads((zoo.work / 'table.json').read_text())
    assert [state['task'] for state in states] == ['first', 'second', 'pupil']
    assert [score['value'] for score in states[0]['scores']] == [0.587, 0.45]
    assert [score['target'] for score in states[0]['scores']] == [0.50, 0.45]
    assert states[0]['checkpoint'] == 'train/epoch_1.pth'
    assert states[0]['machine']['versions']['torch'] in torch.__version__
    assert set(states[0]['seconds']) == {'train', 'test', 'draw'}

    sheet = Image.open(zoo.work / 'contact_sheet.jpg')
    assert sheet.size == (60, 3 * (30 + 40 + 8))
    red, blue, white = (sheet.getpixel((30, y)) for y in (50, 78 + 50, 74))
    assert red[0] > 240 > 20 > red[2] and blue[2] > 240 > 20 > blue[0] and min(white) > 240


def test_done_is_not_done_again(zoo):
    assert len(zoo.run()) == 6
    assert zoo.run() == []
    assert zoo.steps('--tasks', 'second', '--fresh') == [('train', 'second'), ('test', 'second')]
    assert [row.split(' | ')[0] for row in zoo.rows()] == ['| The First', '| The Second', '| The Pupil']


def test_a_subset_updates_the_one_table(zoo):
    assert zoo.steps('--tasks', 'second') == [('train', 'second'), ('test', 'second')]
    assert [row[:8] for row in zoo.rows()] == ['| The Se']
    # The student needs the first one, which is run as well.
    ran = [('train', 'first'), ('test', 'first'), ('train', 'pupil'), ('test', 'pupil')]
    assert zoo.steps('--tasks', 'pupil') == ran
    assert [row[:8] for row in zoo.rows()] == ['| The Fi', '| The Se', '| The Pu']
    # With other options, it is trained again, but not the first one, of which only the checkpoint is used.
    assert zoo.steps('--tasks', 'pupil', '--cfg-options', 'lr=3') == ran[2:]
    assert '`configs/b/pupil.py lr=3`' in zoo.rows()[2]


def test_missed_target(zoo, capsys):
    zoo.plan({**GOOD, 'first': {'coco/bbox_mAP': 0.6, 'coco/segm_mAP': 0.449}})
    calls, words = zoo.run('--tasks', 'first', 'second', fails=True)
    missed = 'segm mAP 0.449 (target 0.45)'
    summary = f'bbox mAP 0.6 (target 0.5), {missed}'
    assert words.splitlines()[1:] == [f'first: missed {missed}']
    assert f'    {summary}: MISSED {missed}\n' in capsys.readouterr().out
    assert len(calls) == 4  # the second one was run nevertheless
    assert f'| {summary} |' in zoo.rows()[0]
    assert '| **no** |' in zoo.rows()[0] and '| yes |' in zoo.rows()[1]
    assert zoo.run('--tasks', 'first', fails=True) == ([], words)


def test_time_limit(zoo, monkeypatch):
    """The limit covers training and testing; a task without a limit runs to its end."""
    short = tuple(task._replace(limit=task.limit and 0.003) for task in TASKS)  # training takes 0.2 s
    monkeypatch.setattr(zoo_demo, 'TASKS', short)
    _, words = zoo.run(fails=True)
    missed = re.findall(
        r'^(\w+): missed (\d\.\d\d) min of training and testing \(limit 0\.003\)$', words, re.M
    )
    assert [name for name, _ in missed] == ['first', 'second'] and len(words.splitlines()) == 3
    assert ['| **no** |' in row for row in zoo.rows()] == [True, True, False]
    assert [' of 0.003 min |' in row for row in zoo.rows()] == [True, True, False]
    job = zoo_demo.Job(TASKS[0], zoo.work, {})
    for seconds, expected in ((60.0, []), (60.6, ['12.01 min of training and testing (limit 12)'])):
        job.state = dict(seconds=dict(train=660.0, test=seconds))
        assert job.overtime() == expected


def test_failing_step_and_resumption(zoo, capsys):
    zoo.plan(GOOD, broken=['first'])
    calls, words = zoo.run(fails=True)
    assert [call[:2] for call in calls] == [['train', 'mmdet'], ['train', 'mmseg'], ['test', 'mmseg']]
    assert words.splitlines()[1:] == [
        'first: train failed: status 1; the end of work/first/log.txt:',
        'pupil: train failed: it needs the checkpoint of first, whose training has not finished',
    ]
    shown = capsys.readouterr().out
    assert 'out of digits' in shown and 'CalledProcessError' not in shown
    row = '| The First | `configs/a/first.py` | 2000 scenes |  |  |  |  | **train failed** |  |'
    assert zoo.rows()[0] == row
    assert Image.open(zoo.work / 'contact_sheet.jpg').height == 78

    state = zoo.result('first')
    state['seconds']['train'] = 600.0
    (zoo.work / 'first' / 'result.json').write_text(json.dumps(state))
    zoo.plan(GOOD)
    calls = zoo.run()
    assert [(call[0], '--resume' in call) for call in calls] == [
        ('train', True),
        ('test', False),
        ('train', False),
        ('test', False),
    ]
    assert 600 < zoo.result('first')['seconds']['train'] < 700
    assert re.search(r'\| 1[01]\.\d min \| \d\.\d min \| 1[01]\.\d of 12 min \| yes \|', zoo.rows()[0])
    assert 'failed' not in zoo.result('first')


def test_no_score_is_a_failure(zoo):
    zoo.plan({**GOOD, 'second': {'aAcc': 99.0}})
    _, words = zoo.run('--tasks', 'second', fails=True)
    assert words.splitlines()[1] == (
        'second: test failed: work/second/test/20260101_000000/20260101_000000.json has no mIoU, but aAcc'
    )
    zoo.plan(GOOD)
    assert zoo.steps('--tasks', 'second') == [('test', 'second')]


def test_changed_config(zoo, capsys):
    zoo.run('--tasks', 'first', 'second')
    config = zoo.folder / 'configs/b/second.py'
    config.write_text(config.read_text().replace('0.1', '0.2'))
    assert zoo.run('--tasks', 'first') == []
    assert 'second is omitted from the table' in capsys.readouterr().out
    assert [row[:8] for row in zoo.rows()] == ['| The Fi']
    calls = zoo.run('--tasks', 'second')
    assert 'other config, options or data than before: starting over' in capsys.readouterr().out
    assert [(call[0], '--resume' in call) for call in calls] == [('train', False), ('test', False)]
    assert [row[:8] for row in zoo.rows()] == ['| The Fi', '| The Se']


def test_changed_teacher(zoo):
    """A changed teacher requires a new training of the student."""
    zoo.run('--tasks', 'pupil')
    config = zoo.folder / 'configs/a/first.py'
    config.write_text(config.read_text().replace('0.1', '0.2'))
    names = ['first', 'first', 'pupil', 'pupil']
    assert [name for _, name in zoo.steps('--tasks', 'pupil')] == names


def test_data(zoo):
    zoo.run('--tasks', 'first')
    log = (zoo.work / 'data.log').read_text()
    assert 'data.py data/digits_scenes' in log and '--train' not in log
    # Different scenes are an error, and scenes of another version invalidate earlier results.
    zoo.want(SCENES, version=2)
    calls, words = zoo.run('--tasks', 'first', fails=True)
    assert calls == [] and 'digits_scenes.py: error: another dataset' in words
    (zoo.folder / 'data/digits_scenes/manifest.json').write_text((zoo.folder / 'wanted.json').read_text())
    assert zoo.steps('--tasks', 'first') == [('train', 'first'), ('test', 'first')]
    assert zoo.run('--tasks', 'first') == []
    assert 'Data: digits scenes, version 2, seed 0, 160 pixels' in (zoo.work / 'table.md').read_text()


def test_other_scenes_are_refused(zoo, monkeypatch):
    """The scene generator refuses folders with fewer scenes before any training."""
    maker = ROOT / 'tools/dataset_converters/digits_scenes.py'
    monkeypatch.setattr(zoo_demo, 'MAKE_DATA', maker)
    load_script(maker).main(['data/digits_scenes', '--train', '2', '--val', '1'])
    calls, words = zoo.run('--tasks', 'first', fails=True)
    assert calls == [] and not (zoo.work / 'first').exists()
    rest = r'--size 160 --digits 3 8 \(version \d+\)'
    assert re.search(rf'^  there: --seed 0 --train 2 --val 1 {rest}$', words, re.M)
    assert re.search(rf'^  asked: --seed 0 --train 6000 --val 200 {rest}$', words, re.M)
    assert words.endswith(f'To replace it: {sys.executable} {maker} data/digits_scenes --overwrite')


@pytest.mark.parametrize(
    ('package', 'dataset', 'expected'),
    [
        ('mmdet', dict(), '6000 scenes'),
        ('mmdet', dict(dataset=dict(dataset=dict(indices=7000))), '6000 scenes'),
        ('mmseg', dict(indices=[3, 5, 8]), '3 scenes'),
        ('mmpretrain', dict(indices=20000), '20000 crops'),
    ],
)
def test_training_data(package, dataset, expected):
    config = Config(dict(default_scope=package, train_dataloader=dict(dataset=dataset)))
    assert zoo_demo.describe_training_data(config, SCENES) == expected


def test_training_data_of_the_twins():
    """Classifiers train on crops of all scenes, the others on all scenes."""
    found = [
        zoo_demo.describe_training_data(zoo_demo.load_config(zoo_demo.find_config(task), []), SCENES)
        for task in zoo_demo.TASKS
    ]
    assert found == ['crops of 6000 scenes'] * 4 + ['6000 scenes'] * 12


def test_absent_config(zoo, capsys):
    """A missing config stops the demo before any run if its task is selected."""
    zoo.run()
    (zoo.folder / 'configs/b/pupil.py').unlink()
    calls, words = zoo.run(fails=True)
    assert calls == []
    assert words.endswith(f'pupil needs one config {zoo.folder}/configs/b/pupil*.py, there is none')
    capsys.readouterr()
    assert zoo.run('--tasks', 'first') == []
    assert 'pupil is omitted from the table' in capsys.readouterr().out
    for name in ('pupil_3e', 'pupil_2e'):
        (zoo.folder / f'configs/b/{name}.py').touch()
    assert zoo.run(fails=True)[1].endswith('there is pupil_2e.py, pupil_3e.py')


@pytest.mark.parametrize('options', [[], ['--fresh']])
def test_foreign_folder(zoo, options):
    """Files that do not belong to the demo are not deleted."""
    (zoo.work / 'first').mkdir(parents=True)
    (zoo.work / 'first' / 'epoch_12.pth').touch()
    calls, words = zoo.run('--tasks', 'first', *options, fails=True)
    assert calls == []
    assert 'work/first was not written by this script. Move it away, or choose another --work-dir.' in words
    assert (zoo.work / 'first' / 'epoch_12.pth').is_file()


def test_best_checkpoint(zoo):
    job = zoo_demo.Job(TASKS[0], zoo.work, {})
    folder = zoo.work / 'first' / 'train'
    folder.mkdir(parents=True)
    with pytest.raises(zoo_demo.StepError, match='there is no checkpoint in'):
        job.checkpoint()
    (folder / 'last_checkpoint').write_text('/elsewhere/epoch_5.pth')
    assert job.checkpoint() == folder / 'epoch_5.pth'
    for age, name in enumerate(('best_mIoU_epoch_4.pth', 'best_mIoU_epoch_10.pth', 'best_mIoU_epoch_3.pth')):
        (folder / name).touch()
        os.utime(folder / name, (1000 - age, 1000 - age))
    assert job.checkpoint() == folder / 'best_mIoU_epoch_4.pth'


def test_interruption_ends_what_was_started(tmp_path, monkeypatch):
    """Ctrl-C and SIGTERM are passed to the processes started by mim."""
    monkeypatch.setattr(zoo_demo, 'HEARTBEAT', 0.1)
    child = 'import os, time, pathlib; pathlib.Path("pid").write_text(str(os.getpid())); time.sleep(60)'
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', '''{child}'''])"
    monkeypatch.chdir(tmp_path)

    def interrupt(seconds):
        if (tmp_path / 'pid').is_file() and (tmp_path / 'pid').read_text():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        zoo_demo.run([sys.executable, '-c', parent], tmp_path / 'log', interrupt)
    pid = int((tmp_path / 'pid').read_text())
    deadline = time.monotonic() + 10
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(pid)


def is_running(pid):
    """Whether a process is running; zombies do not count."""
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_parameters_are_the_trainable_ones():
    @MODELS.register_module(name='HalfFrozen', force=True)
    class HalfFrozen(torch.nn.Module):
        def __init__(self, width):
            super().__init__()
            self.frozen = torch.nn.Linear(width, 7).requires_grad_(False)
            self.trained = torch.nn.Linear(width, 2)

    config = Config(dict(default_scope='mmengine', model=dict(type='HalfFrozen', width=5)))
    assert zoo_demo.count_parameters(config) == 5 * 2 + 2


def test_tasks_fit_their_configs():
    """Every task has one config of its package, with the key for the required checkpoint."""
    names = [task.name for task in zoo_demo.TASKS]
    assert len(set(names)) == len(names) == 16
    configs = [zoo_demo.find_config(task) for task in zoo_demo.TASKS]
    assert len(set(configs)) == 16
    for index, (task, path) in enumerate(zip(zoo_demo.TASKS, configs)):
        config = zoo_demo.load_config(path, [])
        assert config.default_scope == task.package
        if task.needs:
            assert task.needs in names[:index]
            value = config
            for key in task.option.split('.'):
                value = value[key]
            assert value.endswith('.pth')


def test_targets():
    """The scores that the twins must reach."""
    targets = {task.name: [metric.target for metric in task.metrics] for task in zoo_demo.TASKS}
    classifiers = {name: [95.0] for name in ('classification', 'teacher', 'distillation')}
    classifiers['pretraining'] = [85.0]
    segmentors = {name: [60.0] for name in ('deeplabv3', 'sem_fpn', 'pspnet', 'segformer', 'upernet')}
    detectors = {name: [0.50] for name in ('faster_rcnn', 'fcos', 'rtmdet', 'yolox')}
    detectors.update(retinanet=[0.65], mask_rcnn=[0.50, 0.45], ssdlite=[0.35])
    assert targets == {**classifiers, **segmentors, **detectors}
    extras = ('pretraining', 'teacher', 'distillation')
    assert [task.limit for task in zoo_demo.TASKS if task.name not in extras] == [12.0] * 13
    assert [zoo_demo.find_task(name).limit for name in extras] == [None] * 3
