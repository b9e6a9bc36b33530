"""Train and test the small digits configs one after the other with mim, and draw their predictions.

    python tools/misc/zoo_demo.py --work-dir work_dirs/zoo
    python tools/misc/zoo_demo.py --work-dir work_dirs/zoo --tasks retinanet sem_fpn

Writes one table (``table.md``, ``table.json``), one contact sheet (``contact_sheet.jpg``), and a folder per
task with its log, checkpoints and result to the work dir. Running the same command again continues where it
stopped; finished steps are skipped. ``--tasks`` runs only these tasks and updates their rows of the table.
The exit status is 1 if a step failed, or if a score or the time limit was missed.
"""

import argparse
import contextlib
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import torch
from mmengine.config import DictAction
from mmengine.device import get_device
from mmengine.registry import MODELS, DefaultScope
from mmengine.utils import import_modules_from_strings
from zoo_tasks import TASKS

from mmmobilemamba.utils import read_config

ROOT = Path(__file__).resolve().parents[2]
MIM = Path(sys.executable).with_name('mim')
DRAW = ROOT / 'tools/analysis_tools/draw_predictions.py'
TABLE = ROOT / 'tools/analysis_tools/zoo_table.py'
MAKE_DATA = ROOT / 'tools/dataset_converters/digits_scenes.py'
DATA = Path('data/digits_scenes')  # where the configs look for it, from the current folder
PACKAGES = ('torch', 'mmengine', 'mmcv', 'mmdet', 'mmsegmentation', 'mmpretrain', 'openmim', 'mmmobilemamba')
STEPS = ('train', 'test', 'draw')
PAIRS, SCALE = 4, 2  # pictures a task (of single images twice as many), and their enlargement
SCORE = 0.5  # least score of a box that is drawn: about where precision and recall of the twins meet
HEARTBEAT = 5.0  # s, after which the time spent is on disk
TAIL = 15  # lines of the log that are shown after a failure


class StepError(RuntimeError):
    """A step failed; the message says which and why."""


def say(text):
    """Tell the user, at once even through a pipe."""
    print(text, flush=True)


def write_json(path, content):
    """Write a file in one go, so that an interruption leaves the old or the new one."""
    partial = path.with_name(path.name + '.part')
    partial.write_text(json.dumps(content, indent=2) + '\n')
    partial.replace(path)


def stop(process):
    """End a command and everything that it has started."""
    try:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # it had just ended
        pass
    process.wait()


def last_lines(log):
    """The end of a log, without mim's own traceback of the command that it started (list[str])."""
    lines = log.read_text(encoding='utf-8', errors='replace').splitlines()
    if lines[-1].startswith('subprocess.CalledProcessError'):
        lines = lines[: max(index for index, line in enumerate(lines) if line.startswith('Traceback'))]
    return lines[-TAIL:]


def run(command, log, on_wait=lambda seconds: None):
    """Run ``command`` into ``log``, and tell ``on_wait`` now and then and at the end how many s it has taken.

    Raises:
        StepError: If it fails, with the end of the log.
    """
    command = [str(part) for part in command]
    path = f'{MIM.parent}{os.pathsep}{os.environ.get("PATH", "")}'
    start = time.monotonic()
    with open(log, 'a', encoding='utf-8', errors='replace') as file:
        file.write(f'\n$ {" ".join(command)}\n')
        file.flush()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=dict(os.environ, PATH=path),
            start_new_session=True,  # one group, which `stop` ends as a whole
        )
        try:
            code = None
            while code is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    code = process.wait(timeout=HEARTBEAT)
                on_wait(time.monotonic() - start)
        except BaseException:
            stop(process)
            raise
    if code:
        raise StepError('\n'.join([f'status {code}; the end of {log}:', *last_lines(log)]))


def clear(folder):
    """Make a task's folder empty.

    Raises:
        StepError: If it holds what is not of this script.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / 'result.json').is_file():
        raise StepError(
            f'{folder} was not written by this script. Move it away, or choose another --work-dir.'
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def find_config(task):
    """The config of a Task (Path).

    Raises:
        StepError: If its pattern does not fit exactly one file.
    """
    found = sorted((ROOT / 'configs').glob(task.config))
    if len(found) != 1:
        names = ', '.join(path.name for path in found) or 'none'
        raise StepError(f'{task.name} needs one config {ROOT / "configs" / task.config}, there is {names}')
    return found[0]


def load_config(path, options):
    """The config at ``path``, changed by ``options``, a list of KEY=VALUE, without what it imports."""
    parser = argparse.ArgumentParser()
    parser.add_argument('options', nargs='*', action=DictAction)
    changes = parser.parse_args(options).options
    return read_config(path, changes, import_custom_modules=False)


def count_parameters(config):
    """Number of trainable parameters of the model that a Config describes."""
    import_modules_from_strings(**config.get('custom_imports', dict(imports=None)))
    with DefaultScope.overwrite_default_scope(config.default_scope):
        model = MODELS.build(config.model)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def describe_training_data(config, data):
    """What a Config trains on, as the table says it: whole scenes, or crops of all of them."""
    dataset, crops = config.train_dataloader.dataset, config.default_scope == 'mmpretrain'
    while 'dataset' in dataset:
        dataset = dataset.dataset
    picked, scenes = dataset.get('indices'), data['train']
    if picked is None:
        return f'crops of {scenes} scenes' if crops else f'{scenes} scenes'
    number = abs(picked) if isinstance(picked, int) else len(picked)
    return f'{number} crops' if crops else f'{min(number, scenes)} scenes'


def describe_machine():
    """What the times depend on."""
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(':', 1)[1].strip() for line in lines if line.startswith('model name')]
    return {
        'cpu': names[0] if names else platform.machine(),
        'cores': os.cpu_count(),
        'device': get_device(),
        'threads': torch.get_num_threads(),
        'dtype': str(torch.get_default_dtype()).replace('torch.', ''),
        'python': platform.python_version(),
        'versions': {name: version(name) for name in PACKAGES},
    }


def ensure_data(work_dir):
    """Make the digits scenes, or check those that are there: whole, and what the twins are made for.

    Returns:
        dict: The arguments that they were made with, and the version of their maker.

    Raises:
        StepError: If they cannot be made, are damaged, or are others.
    """
    there, log = DATA.exists(), work_dir / 'data.log'
    say(f'Checking {DATA}' if there else f'Generating {DATA} (about 2 min), log in {log}')
    log.unlink(missing_ok=True)  # an error shows the end of it
    try:
        run([sys.executable, MAKE_DATA, DATA], log)
    except StepError as error:
        words = f'the configs need {DATA} as {MAKE_DATA.name} generates it by default: {error}'
        raise StepError(f'{words}\nTo replace it: {sys.executable} {MAKE_DATA} {DATA} --overwrite') from None
    manifest = json.loads((DATA / 'manifest.json').read_text())
    return {**manifest['arguments'], 'version': manifest['version']}


class Job:
    """One task in its folder, with its state in ``result.json`` there.

    Args:
        task (Task): What to do.
        work_dir (Path): Where all tasks have their folders.
        data (dict): What :func:`ensure_data` returns.
    """

    def __init__(self, task, work_dir, data):
        self.task, self.data = task, data
        self.folder = work_dir / task.name
        self.result, self.log = self.folder / 'result.json', self.folder / 'log.txt'
        self.needed = Job(find_task(task.needs), work_dir, data) if task.needs else None
        self.state = json.loads(self.result.read_text()) if self.result.is_file() else {}

    @property
    def config(self):
        """The task's config (Path)."""
        return find_config(self.task)

    def save(self):
        """Put the state on disk."""
        write_json(self.result, self.state)

    def fingerprint(self, options):
        """A hash over what a result depends on: resolved config, options, data, and the same of its need."""
        content = [load_config(self.config, options).to_dict(), self.data]
        content += [self.needed.state.get('fingerprint')] if self.needed else []
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def is_current(self):
        """Whether there is a result, and what it depends on is still the same."""
        try:
            return bool(self.state) and self.state['fingerprint'] == self.fingerprint(self.state['options'])
        except StepError:  # its config is gone
            return False

    def is_complete(self):
        """Whether all steps are done."""
        return self.state.get('done') == list(STEPS)

    def prepare(self, options):
        """Start over, unless the state that is there is of the same config, options (list[str]) and data."""
        fingerprint = self.fingerprint(options)
        if self.state.get('fingerprint') == fingerprint:
            return
        if self.state:
            say('    other config, options or data than before: starting over')
        clear(self.folder)
        task, config = self.task, self.config.relative_to(ROOT).as_posix()
        self.state = dict(task=task.name, title=task.title, config=config, options=options, data=self.data)
        self.state.update(fingerprint=fingerprint, machine=describe_machine(), done=[], seconds={})
        trained_on = describe_training_data(load_config(self.config, options), self.data)
        self.state.update(training_data=trained_on, limit=task.limit)
        self.save()

    def run(self):
        """Do the steps that are not done.

        Raises:
            StepError: If one fails.
        """
        for step in STEPS:
            if step in self.state['done']:
                continue
            say(f'    {step}, log in {self.log}')
            try:
                getattr(self, step)()
            except StepError as error:
                self.state['failed'] = step
                self.save()
                raise StepError(f'{step} failed: {error}') from None
            self.state.pop('failed', None)
            self.state['done'].append(step)
            self.save()
            say(f'    {step} took {self.state["seconds"][step] / 60:.1f} min')

    def call(self, step, command, before=0.0):
        """Run a step's command and note its time (s), which adds to what was spent ``before``."""

        def note(seconds):
            self.state['seconds'][step] = round(before + seconds, 1)
            self.save()

        run(command, self.log, note)

    def changes(self):
        """What to change in the config, list of KEY=VALUE: the user's options and the needed checkpoint.

        Raises:
            StepError: If the needed one is not trained.
        """
        if self.needed is None:
            return self.state['options']
        if 'train' not in self.needed.state.get('done', []):
            raise StepError(f'it needs the checkpoint of {self.task.needs}, whose training has not finished')
        return [*self.state['options'], f'{self.task.option}={self.needed.checkpoint()}']

    def mim(self, verb, *arguments):
        """Command of mim on this task's config."""
        changes = self.changes()
        command = [MIM, verb, self.task.package, self.config, '--gpus', '0', *arguments]
        return [*command, '--cfg-options', *changes] if changes else command

    def checkpoint(self):
        """The best checkpoint, or the last one where the config keeps no best one (Path).

        Raises:
            StepError: If there is none.
        """
        folder = self.folder / 'train'
        best = sorted(folder.glob('best_*.pth'), key=lambda path: path.stat().st_mtime)
        if best:
            return best[-1]
        note = folder / 'last_checkpoint'
        if not note.is_file():
            raise StepError(f'there is no checkpoint in {folder}')
        return folder / Path(note.read_text().strip()).name  # the folder may have moved

    def train(self):
        """Train, or go on with a training that was interrupted."""
        folder, resume, before = self.folder / 'train', (), 0.0
        if (folder / 'last_checkpoint').is_file():
            resume, before = ('--resume',), self.state['seconds'].get('train', 0.0)
        self.call('train', self.mim('train', *resume, '--work-dir', folder), before)

    def predictions(self):
        """Where the predictions go: a folder of maps, or a file."""
        return self.folder / ('predictions' if self.task.package == 'mmseg' else 'predictions.pkl')

    def test(self):
        """Test, and read the scores from the file that the Runner writes."""
        folder, checkpoint = self.folder / 'test', self.checkpoint()
        shutil.rmtree(folder, ignore_errors=True)
        files = ('--checkpoint', checkpoint, '--work-dir', folder, '--out', self.predictions())
        self.call('test', self.mim('test', *files))
        written = sorted(folder.glob('*/*.json'))
        if not written:
            raise StepError(f'mim test wrote no scores into {folder}')
        found = json.loads(written[-1].read_text())
        absent = [metric.key for metric in self.task.metrics if metric.key not in found]
        if absent:
            raise StepError(f'{written[-1]} has no {", ".join(absent)}, but {", ".join(sorted(found))}')
        scores = [{**metric._asdict(), 'value': round(found[metric.key], 4)} for metric in self.task.metrics]
        texts = [f'{score["name"]} {score["value"]:.4g} (target {score["target"]:g})' for score in scores]
        missed = [text for score, text in zip(scores, texts) if score['value'] < score['target']]
        missed += self.overtime()
        self.state.update(scores=scores, summary=', '.join(texts), missed=missed, passed=not missed)
        self.state['checkpoint'] = checkpoint.relative_to(self.folder).as_posix()
        self.state['parameters'] = count_parameters(load_config(self.config, self.changes()))

    def overtime(self):
        """By how much training and testing are over the task's limit, list of no text or one."""
        minutes = (self.state['seconds']['train'] + self.state['seconds']['test']) / 60
        over = self.task.limit is not None and minutes > self.task.limit
        return [f'{minutes:.2f} min of training and testing (limit {self.task.limit:g})'] if over else []

    def draw(self):
        """Picture some of the predictions."""
        number = 2 * PAIRS if self.task.package == 'mmpretrain' else PAIRS
        command = [sys.executable, DRAW, self.config, self.predictions(), self.folder / 'pictures']
        command += ['--number', number, '--columns', number, '--scale', SCALE, '--score-thr', SCORE]
        changes = self.changes()
        self.call('draw', [*command, '--cfg-options', *changes] if changes else command)


def find_task(name):
    """The Task of that name."""
    return next(task for task in TASKS if task.name == name)


def with_needs(names):
    """The tasks of these names and those that they need, in the order of ``TASKS``."""
    wanted = set(names)
    for task in reversed(TASKS):
        if task.name in wanted and task.needs:
            wanted.add(task.needs)
    return [task for task in TASKS if task.name in wanted]


def run_task(job, args):
    """Run one task as the command line ``args`` says; return what is wrong with it, or None."""
    borrowed = job.task.name not in args.tasks  # only another task needs it, so any options will do
    try:
        if not (borrowed and job.is_current() and job.is_complete()):
            job.prepare(args.cfg_options)
            job.run()
    except StepError as error:
        say(f'    {error}')
        return f'{job.task.name}: {str(error).splitlines()[0]}'
    missed = ', '.join(job.state['missed'])
    say(f'    {job.state["summary"]}: {f"MISSED {missed}" if missed else "passed"}')
    return f'{job.task.name}: missed {missed}' if missed else None


def report(work_dir, data):
    """Write the table and the contact sheet of all results that are up to date."""
    known = [job for job in (Job(task, work_dir, data) for task in TASKS) if job.state]
    current = [job for job in known if job.is_current()]
    for job in known:
        if job not in current:
            say(f'{job.task.name} is omitted from the table: its config, options or data have changed since')
    if current:
        run([sys.executable, TABLE, work_dir, *(job.task.name for job in current)], work_dir / 'table.log')
        say(
            f'{len(current)} of {len(TASKS)} tasks: {work_dir / "table.md"}, {work_dir / "contact_sheet.jpg"}'
        )


def run_zoo(args):
    """Run the tasks and write the report; return what went wrong (list[str])."""
    tasks = with_needs(args.tasks)
    configs = [find_config(task) for task in tasks]
    args.work_dir.mkdir(parents=True, exist_ok=True)
    data = ensure_data(args.work_dir)
    if args.fresh:
        for name in args.tasks:
            clear(args.work_dir / name)
    wrong = []
    for number, (task, config) in enumerate(zip(tasks, configs), 1):
        say(f'[{number}/{len(tasks)}] {task.title}, {config.relative_to(ROOT)}')
        wrong.append(run_task(Job(task, args.work_dir, data), args))
        report(args.work_dir, data)
    return [each for each in wrong if each]


def main(argv=None):
    names = [task.name for task in TASKS]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add('--work-dir', type=Path, default=Path('work_dirs/zoo'), help='default: %(default)s')
    usual = [task.name for task in TASKS if not task.on_demand]
    more = ', '.join(task.name for task in TASKS if task.on_demand)
    text = f'tasks to run, with those they depend on: {", ".join(usual)} (default: all of these), {more}'
    add('--tasks', nargs='+', choices=names, default=usual, metavar='TASK', help=text)
    add('--fresh', action='store_true', help='delete earlier results of these tasks')
    add('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='changes to every config')
    args = parser.parse_args(argv)
    warnings.simplefilter('ignore')  # they are in the logs; the console has a line a step
    try:
        wrong = run_zoo(args)
    except StepError as error:
        sys.exit(f'zoo_demo.py: error: {error}')
    except KeyboardInterrupt:
        sys.exit('\nzoo_demo.py: interrupted. Run the same command to continue.')
    if wrong:
        sys.exit('\n'.join(['zoo_demo.py: failed or missed a target:', *wrong]))


if __name__ == '__main__':
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends what was started, as Ctrl-C does
    main()
