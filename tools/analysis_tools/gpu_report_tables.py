"""Markdown tables of ``gpu_report.py``."""

from itertools import groupby

from published import DISTILLED, PLAIN, accuracies

OPTIONS = ('', 'cuda_graph', 'compile', 'compile+cuda_graph')
HEADS = dict(zip(OPTIONS, ('eager', 'cuda_graph', 'compile', 'compile+cuda_graph')))


def render(contents):
    """Render the report of all parts so far.

    Args:
        contents (dict[str, dict]): Contents of the parts' files, by name.

    Returns:
        str: Markdown.
    """
    machine = next(iter(contents.values()))['machine']
    lines = ['# Report', '', ', '.join(f'{key} {value}' for key, value in machine.items()), '']
    for name, content in contents.items():
        lines += [
            f'## {name}',
            '',
            f'{describe(content["settings"])}; done {content["elapsed"]:.0f} s in.',
            '',
        ]
        lines += TABLES.get(name, rows_of_dicts)(content)
        if 'error' in content:
            lines += ['', f'**{content["error"]}**']
        lines += ['', *map(error_line, content['errors'])]
        lines += [f'- skipped: {what}' for what in content['skipped']]
        lines.append('')
    return '\n'.join(lines)


def describe(settings):
    """Settings as text."""
    return ', '.join(f'{key} {value}' for key, value in settings.items())


def error_line(row):
    """One line about a failure."""
    what = ', '.join(f'{key} {value}' for key, value in row.items() if key != 'error')
    return f'- failed: {what}: {" ".join(row["error"].split())[:300]}'


def table(head, rows):
    """Lines of a table."""
    return [f'| {" | ".join(map(str, row))} |' for row in (head, ['---'] * len(head), *rows)]


def networks(content):
    """One row per network and batch size, with the time of each variant in ms; the fastest networks first."""
    lines = []
    options = [name for name in OPTIONS if name in content.get('variants', OPTIONS)]
    for key in ('results', 'precisions'):
        rows = sorted(content.get(key, []), key=lambda row: -row['batch'])
        for batch, found in groupby(rows, key=lambda row: row['batch']):
            lines += networks_of_a_batch(batch, list(found), options)
    return lines


def networks_of_a_batch(batch, rows, options):
    """A table for one batch size, with one column per variant."""
    groups = {}
    for row in rows:
        groups.setdefault((row['model'], *row['size'], row['precision']), []).append(row)
    head = ['network', 'size', 'precision', 'top-1 plain', 'top-1 distilled', 'format']
    head += [f'{HEADS[name]}, ms' for name in options] + ['compilation, s', 'images/s']
    lines = []
    for (model, height, width, precision), found in groups.items():
        published = accuracies(model, height) if height == width else {}
        top1 = [f'{published[kind].top1}' if kind in published else '' for kind in (PLAIN, DISTILLED)]
        times = {row['options']: f'{row["median"]:.3f}' for row in found}
        best = max(row['images_per_second'] for row in found)
        cells = [model, f'{height}x{width}', precision, *top1, found[0]['format']]
        cells += [times.get(name, 'not compiled' if 'compile' in name else '') for name in options]
        compilation = next((f'{row["compile_seconds"]:.0f}' for row in found if 'compile_seconds' in row), '')
        lines.append((best, [*cells, compilation, f'{best:.0f}']))
    lines.sort(key=lambda line: -line[0])
    return [
        f'Batch {batch}, images/s of the fastest variant:',
        '',
        *table(head, [row for _, row in lines]),
        '',
    ]


def formats(content):
    """One row per precision and memory format."""
    head = ['step', 'batch', 'precision', 'format', 'variant', 'ms', 'images/s']
    rows = content['results'] + content.get('precisions', [])
    rows = sorted(rows, key=lambda row: (not row['train'], row['precision']))
    return table(
        head,
        [
            [
                'training' if row['train'] else 'inference',
                row['batch'],
                row['precision'],
                row['format'],
                HEADS[row['options']],
                f'{row["median"]:.3f}',
                f'{row["images_per_second"]:.0f}',
            ]
            for row in rows
        ],
    )


def scans(content):
    """One row per stage and dtype."""
    head = ['stage', 'dtype', 'step', 'backend', 'ms', 'quartiles']
    rows = [
        [
            row['stage'],
            row['dtype'],
            'forward and backward' if row['train'] else 'forward',
            row['backend'],
            f'{row["median"]:.4f}',
            f'{row["low"]:.4f} to {row["high"]:.4f}',
        ]
        for row in content['results']
    ]
    return table(head, rows)


def profiles(content):
    """Sums by kind of kernel for each network, and the slowest kernels of the first two."""
    if not content['results']:
        return []
    kinds = list(content['results'][0]['sums'])
    rows = [
        [
            row['model'],
            f'{row["size"][0]}x{row["size"][1]}',
            'training' if row['train'] else 'inference',
            row['batch'],
            *(f'{row["sums"][kind]:.3f}' for kind in kinds),
            f'{row["total"]:.3f}',
        ]
        for row in content['results']
    ]
    lines = table(['network', 'size', 'step', 'batch', *(f'{kind}, ms' for kind in kinds), 'all, ms'], rows)
    for row in content['results'][:2]:
        step = 'training' if row['train'] else 'inference'
        kernels = [[f'`{name[:90]}`', f'{count:g}', f'{ms:.4f}'] for name, count, ms in row['kernels']]
        lines += ['', f'{row["model"]}, {step}:', '', *table(['kernel', 'calls', 'ms'], kernels)]
    return lines


def tests(content):
    """Whether the tests passed, and the end of their output."""
    if 'passed' not in content:
        return ['running']
    verdict = f'{"passed" if content["passed"] else "**failed**"} in {content["seconds"]:.0f} s'
    return [verdict, '', '```', *content['output'].splitlines()[-30:], '```']


def rows_of_dicts(content):
    """Results as a list, without a table."""
    return [f'- {", ".join(f"{key} {value}" for key, value in row.items())}' for row in content['results']]


TABLES = dict(
    training=networks,
    inference=networks,
    scan=scans,
    formats=formats,
    profile=profiles,
    tests=tests,
)
