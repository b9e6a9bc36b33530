"""Results of ``gpu_report.py``: one file for each part, and what of an earlier run can be kept."""

import json
from contextlib import contextmanager

import gpu_report_tables
from gpu_report_pool import WorkerError
from gpu_report_worker import variant
from timing import PACKAGES

# What must not differ between runs whose results are put together.
SAME_MACHINE = ('gpu', 'gpu_memory', 'cuda', 'cudnn', 'driver', 'triton', 'python', *PACKAGES)
LOW = ('amp', 'bfloat16')  # precisions that all networks are measured in


class Part:
    """What a part has found, in a file that is written anew with each result.

    Args:
        report (Report): The run.
        name (str): Of the part.
        settings (dict): Of the part.
        earlier (dict, optional): What the file had before, whose results are kept.
    """

    def __init__(self, report, name, settings, earlier=None):
        self.report, self.name = report, name
        settings = dict(settings, **report.settings._asdict())
        if earlier is None:
            earlier = dict(part=name, machine=report.machine, results=[])
        self.content = dict(earlier, settings=settings, errors=[], skipped=[])
        if self.content.pop('error', None) is not None:  # what was cut off is tried again
            self.content.pop('passed', None)
        self.save()

    def save(self):
        """Write the JSON, and all tables."""
        self.content['elapsed'] = round(self.report.elapsed(), 1)
        (self.report.out / f'{self.name}.json').write_text(json.dumps(self.content, indent=2) + '\n')
        contents = {**self.report.kept, **{name: part.content for name, part in self.report.written.items()}}
        contents[self.name] = self.content
        ordered = {name: contents[name] for name in self.report.names if name in contents}
        (self.report.out / 'report.md').write_text(gpu_report_tables.render(ordered))

    def add(self, row, to='results'):
        """Record a result (dict)."""
        self.content.setdefault(to, []).append(row)
        self.save()

    def skip(self, what):
        """Record what there was no time for."""
        self.content['skipped'].append(what)
        self.report.say(f'{self.name}: skipped {what}')
        self.save()

    def find(self, **fields):
        """Results with some fields (list)."""
        rows = self.content['results'] + self.content.get('precisions', [])
        return [row for row in rows if is_of(row, **fields)]

    def describe(self, job, memory_format, options):
        """What was measured (dict)."""
        row = dict(job._asdict(), threads=1, variant=variant(job, memory_format, options))
        return dict(row, options=options, format=memory_format)

    def add_timing(self, job, memory_format, options, timing):
        """Record a timing (dict) of a job; what is not in bfloat16 has a list of its own."""
        row = dict(self.describe(job, memory_format, options), **timing)
        self.add(row, 'results' if job.precision in LOW else 'precisions')
        self.report.say(
            f'{self.name}: {job.network} batch {job.batch} {job.precision} {memory_format} '
            f'{options or "eager"}: {timing["median"]:.3f} ms, {timing["images_per_second"]:.0f} images/s'
        )

    def fail(self, job, what, error):
        """Record what a job failed with."""
        self.add(dict(job._asdict(), what=what, error=error), 'errors')
        self.report.say(f'{self.name}: {job.network} {what} FAILED: {error[:300]}')

    @contextmanager
    def recording(self, job, what):
        """Record what a worker could not do, instead of raising it."""
        try:
            yield
        except WorkerError as error:
            self.fail(job, what, str(error))


def is_of(row, **fields):
    """Whether a row, perhaps of a JSON file, where tuples are lists, has these fields."""
    given = {key: list(value) if isinstance(value, tuple) else value for key, value in fields.items()}
    found = {key: list(row[key]) if isinstance(row[key], tuple) else row[key] for key in fields}
    return found == given


def load(folder, names, machine, settings):
    """Results of an earlier run, by part.

    Args:
        folder (Path): Of the results.
        names (Iterable[str]): Of all parts.
        machine (dict[str, str]): This machine.
        settings (Settings): Of this run.

    Returns:
        dict[str, dict]: What the files have.

    Raises:
        ValueError: If they are of another machine, or of other settings.
    """
    contents = {}
    for name in names:
        path = folder / f'{name}.json'
        if not path.is_file():
            continue
        content = contents[name] = json.loads(path.read_text())
        # Without a GPU, the processor is what counts.
        keys = SAME_MACHINE if 'gpu' in machine else ('processor', *SAME_MACHINE)
        pairs = [(key, content['machine'].get(key), machine.get(key)) for key in keys]
        pairs += [(key, content['settings'].get(key), value) for key, value in settings._asdict().items()]
        for key, before, now in pairs:
            if before != now:
                raise ValueError(
                    f'--resume: {path} was measured with {key} {before}, and here it is {now}; results of '
                    'both cannot be in one report. Use another --out.'
                )
    return contents
