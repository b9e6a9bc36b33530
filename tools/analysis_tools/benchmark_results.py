"""Read results of ``benchmark.py`` and ``gpu_report.py`` for networks with a published accuracy."""

import json

from published import accuracies

SETTINGS = ('dtype', 'device')  # must be the same in all files


def read(paths):
    """Read files with results of one machine (list[dict]).

    Raises:
        ValueError: If machine or settings differ between files, or there are no results.
    """
    contents = [json.loads(path.read_text()) for path in paths]
    threads = [result['threads'] for content in contents for result in content['results']]
    if not threads:
        raise ValueError(f'there are no results in {", ".join(map(str, paths))}')
    for what, values in (
        ('machine', [content['machine'] for content in contents]),
        ('number of threads', threads),
        (' or '.join(SETTINGS), [[content['settings'][name] for name in SETTINGS] for content in contents]),
    ):
        if any(value != values[0] for value in values):
            raise ValueError(f'the files have more than one {what}: {values[0]} and others')
    return contents


def about(content):
    """Machine and settings of a file, in one line."""
    machine, threads = content['machine'], content['results'][0]['threads']
    where = machine.get('gpu') or f'{machine["processor"]}, threads: {threads}'
    return f'{where}, {content["settings"]["dtype"]}, torch {machine["torch"]}'


def key_of(result):
    """Model and size of a result."""
    return result['model'], result['size'][0]


def fastest(results, batch):
    """The result of the fastest variant at one batch size, by network with a published accuracy (dict)."""
    found = {}
    for result in results:
        key = key_of(result)
        if accuracies(*key) and result['batch'] == batch:
            found[key] = min(result, found.get(key, result), key=lambda each: each['median'])
    return found
