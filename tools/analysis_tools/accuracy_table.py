"""Print Markdown tables that compare MobileMamba with other networks, from results of ``benchmark.py``.

    python tools/analysis_tools/benchmark.py published --classifier --costs --variants deploy --json all.json
    python tools/analysis_tools/accuracy_table.py costs all.json
    python tools/analysis_tools/accuracy_table.py times all.json

``costs`` lists published accuracies with their sources, parameters and FLOPs. ``times`` lists ms at the
smallest batch size and images/s at the largest one, for the fastest variant in PyTorch and in each other
runtime. Networks without an accuracy in ``published.py`` are omitted. All files must come from one machine.
"""

import argparse
from pathlib import Path

from benchmark_models import EXPORTED
from benchmark_results import about, fastest, key_of, read
from published import DISTILLED, PLAIN, UNMEASURED, accuracies, networks

PYTORCH = 'PyTorch'
RUNTIME_NAMES = dict(
    onnx='ONNX Runtime',
    onnx_custom='ONNX Runtime, custom operators',
    onnx_fp16='ONNX Runtime, float16',
    onnx_int8='ONNX Runtime, int8',
    onnx_custom_int8='ONNX Runtime, custom operators, int8',
)
ACCURACIES = ('plain, % (epochs)', 'distilled, % (epochs)')


def runtime_of(result):
    """Name of the runtime of a variant."""
    exported = [part for part in result['variant'].split('+') if part in EXPORTED]
    return RUNTIME_NAMES.get(exported[0], exported[0]) if exported else PYTORCH


def table(titles, rows):
    """Lines of a Markdown table."""
    return [f'| {" | ".join(row)} |' for row in (titles, ['---'] * len(titles), *rows)]


def accuracy_cells(entries):
    """Cells for the plain and the distilled top-1 of a network, with the epochs where published."""
    cells = []
    for kind in (PLAIN, DISTILLED):
        entry = next((entry for entry in entries if entry.training == kind), None)
        epochs = f' ({entry.epochs})' if entry and entry.epochs else ''
        cells.append(f'{entry.top1:.1f}{epochs}' if entry else '')
    return cells


def source_cell(source):
    """Links to the paper, and to the source of the accuracy if it is another page."""
    paper = f'[{source.paper}](https://arxiv.org/abs/{source.paper})'
    if source.address.endswith(source.paper):
        return paper
    where = 'timm' if source.address.endswith('.csv') else 'README'
    return f'{paper}, [{where}]({source.address})'


def costs_table(results):
    """Networks sorted by FLOPs; those that cannot run here have the figures of their authors."""
    counted = {key_of(row): row for row in results if 'flops' in row}
    rows = []
    for key in filter(counted.get, networks()):
        entries = list(accuracies(*key).values())
        parameters, flops = counted[key]['parameters'] / 1e6, counted[key]['flops'] / 1e9
        cells = [entries[0].label, str(key[1]), f'{parameters:.2f}', f'{flops:.3f}']
        rows.append((flops, [*cells, *accuracy_cells(entries), source_cell(entries[0].source)]))
    rows.sort(key=lambda row: row[0])
    for entry in UNMEASURED:
        cells = [entry.label, str(entry.size), f'{entry.parameters:g}*', f'{entry.flops:g}*']
        rows.append((entry.flops, [*cells, *accuracy_cells([entry]), source_cell(entry.source)]))
    titles = ['network', 'px', 'parameters, M', 'FLOPs, G', *ACCURACIES, 'source']
    return table(titles, [cells for _, cells in rows])


def times_table(results):
    """Networks sorted by the shortest time at the smallest batch, with one column per runtime."""
    batches = sorted({row['batch'] for row in results})
    runtimes = list(dict.fromkeys(runtime_of(row) for row in results))
    small, large = batches[0], batches[-1]
    best = {
        (batch, name): fastest([row for row in results if runtime_of(row) == name], batch)
        for batch in (small, large)
        for name in runtimes
    }
    rows = []
    for key, _ in sorted(fastest(results, small).items(), key=lambda item: item[1]['median']):
        entries = list(accuracies(*key).values())
        times = [best[small, name].get(key) for name in runtimes]
        rates = [best[large, name].get(key) for name in runtimes] if large > small else []
        form = best[small, PYTORCH].get(key) if PYTORCH in runtimes else None
        cells = [entries[0].label, str(key[1]), *(f'{row["median"]:.1f}' if row else '' for row in times)]
        cells += [f'{row["images_per_second"]:.0f}' if row else '' for row in rates]
        rows.append([*cells, f'`{form["variant"]}`' if form else '', *accuracy_cells(entries)])
    titles = ['network', 'px', *(f'{name}, ms' for name in runtimes)]
    titles += [f'{name}, images/s' for name in runtimes] if large > small else []
    return table([*titles, f'form in {PYTORCH}', *ACCURACIES], rows)


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument('table', choices=('costs', 'times'))
    parser.add_argument('files', nargs='+', type=Path, help='output of benchmark.py --json')
    args = parser.parse_args(argv)
    try:
        contents = read(args.files)
    except ValueError as error:
        parser.error(str(error))
    results = [row for content in contents for row in content['results'] if accuracies(*key_of(row))]
    if not results:
        parser.error(f'none of {networks()} is in the files')
    if args.table == 'costs':
        if not any('flops' in row for row in results):
            parser.error('the files have no parameters and FLOPs: measure with benchmark.py --costs')
        lines = costs_table(results)
    else:
        batches = sorted({row['batch'] for row in results})
        more = f', images/s at a batch of {batches[-1]}' if len(batches) > 1 else ''
        lines = [f'{about(contents[0])}; ms for a batch of {batches[0]}{more}:', '', *times_table(results)]
    print('\n'.join(lines))


if __name__ == '__main__':
    main()
