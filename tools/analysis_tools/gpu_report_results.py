"""Results of ``gpu_report.py``: one file per part, and loading those of an earlier run."""

import json
from contextlib import contextmanager

import gpu_report_tables
from gpu_report_pool import WorkerError
from gpu_report_worker import variant
from timing import PACKAGES

# Must be the same in all runs whose results are merged.
SAME_MACHINE = ('gpu', 'gpu_memory', 'cuda', 'cudnn', 'driver', 'triton', 'python', *PACKAGES)
LOW = ('amp', 'bfloat16')  # precisions in which all networks are measured


class Part:
    """Results of a part, in a file that is rewritten after each result.

    Args:
        report (Report): The run.
        name (str): Name of the part.
        settings (dict): Settings of the part.
        earlier (dict, optional): Content of the file from an earlier run, whose results are kept.
    """

    def __init__(self, report, name, settings, earlier=None):
        self.report, self.name = report, name
        settings = dict(settings, **report.settings._asdict())
        if earlier is None:
            earlier = dict(part=name, machine=report.machine, results=[])
        self.content = dict(earlier, settings=settings, errors=[], skipped=[])
        if self.content.pop('error', None) is not None:  # interrupted tests run again
            self.content.pop('passed', None)
        self.save()

    def save(self):
        """Write the JSON of the part and the tables of all parts."""
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
        """Record a step for which no time was left."""
        self.content['skipped'].append(what)
        self.report.say(f'{self.name}: skipped {what}')
        self.save()

    def find(self, **fields):
        """Results with the given fields (list)."""
        rows = self.content['results'] + self.content.get('precisions', [])
        return [row for row in rows if is_of(row, **fields)]

    def describe(self, job, memory_format, options):
        """Identifying fields of a result (dict)."""
        row = dict(job._asdict(), threads=1, variant=variant(job, memory_format, options))
        return dict(row, options=options, format=memory_format)

    def add_timing(self, job, memory_format, options, timing):
        """Record a timing (dict) of a job; those of other precisions than bfloat16 are in a separate list."""
        row = dict(self.describe(job, memory_format, options), **timing)
        self.add(row, 'results' if job.precision in LOW else 'precisions')
        self.report.say(
            f'{self.name}: {job.network} batch {job.batch} {job.precision} {memory_format} '
            f'{options or "eager"}: {timing["median"]:.3f} ms, {timing["images_per_second"]:.0f} images/s'
        )

    def fail(self, job, what, error):
        """Record the error of a job."""
        self.add(dict(job._asdict(), what=what, error=error), 'errors')
        self.report.say(f'{self.name}: {job.network} {what} FAILED: {error[:300]}')

    @contextmanager
    def recording(self, job, what):
        """Record an error of a worker instead of raising it."""
        try:
            yield
        except WorkerError as error:
            self.fail(job, what, str(error))


def is_of(row, **fields):
    """Whether a row has these fields; tuples equal lists, as rows may come from JSON."""
    given = {key: list(value) if isinstance(value, tuple) else value for key, value in fields.items()}
    found = {key: list(row[key]) if isinstance(row[key], tuple) else row[key] for key in fields}
    return found == given


def load(folder, names, machine, settings):
    """Load the results of an earlier run, by part.

    Args:
        folder (Path): Folder with the results.
        names (Iterable[str]): Names of all parts.
        machine (dict[str, str]): This machine.
        settings (Settings): Settings of this run.

    Returns:
        dict[str, dict]: Contents of the files.

    Raises:
        ValueError: If machine or settings differ.
    """
    contents = {}
    for name in names:
        path = folder / f'{name}.json'
        if not path.is_file():
            continue
        content = contents[name] = json.loads(path.read_text())
        # Without a GPU, the processor must be the same.
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
