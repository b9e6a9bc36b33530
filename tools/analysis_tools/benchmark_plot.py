"""Draw published accuracy against speed, from files that ``benchmark.py`` or ``gpu_report.py`` has written.

    python tools/analysis_tools/benchmark_plot.py mobilemamba.json timm.json --out speed.png
    python tools/analysis_tools/benchmark_plot.py report/inference.json report/training.json --out gpu.png

Of every model the fastest variant is taken. Of a CPU, the figure has the latency at the smallest batch and
the throughput at the largest; of a GPU, the throughput at the largest batch, and that of training if a file
has it. All files have to come from one machine. Accuracies are published ones, see ``published.py``; none was
measured here.
"""

import argparse
import json
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox
from published import DISTILLED, PLAIN, accuracies, networks

MARKERS = {PLAIN: 'o', DISTILLED: '^'}
OURS, OTHERS = 'tab:red', 'tab:gray'
SETTINGS = ('dtype', 'device')  # in which the files must agree


def fastest(results, batch):
    """Median time of a batch in ms by model and size, of its fastest variant (dict)."""
    times = {}
    for result in results:
        key = result['model'], result['size'][0]
        if accuracies(*key) and result['batch'] == batch:
            times[key] = min(result['median'], times.get(key, result['median']))
    return times


def panels(contents):
    """What is drawn: a list of points (dict of model and size to x) with a label of the axis each."""
    by_mode = {False: [], True: []}
    for content in contents:
        by_mode[content['settings']['train']] += content['results']
    on_gpu = contents[0]['settings']['device'].startswith('cuda')
    found = []
    for train, results in by_mode.items():
        if not results:
            continue
        batches = [result['batch'] for result in results]
        small, large = min(batches), max(batches)
        step = 'training' if train else 'inference'
        if not on_gpu:
            found.append((fastest(results, small), f'{step}, ms for a batch of {small}'))
        rates = {key: 1e3 * large / time for key, time in fastest(results, large).items()}
        found.append((rates, f'{step}, images/s, batch {large}'))
    return [panel for panel in found if panel[0]]


def draw(axis, points, label):
    """Scatter ``points`` with their names; a network that was trained in two ways has two."""
    dots = [(key, x, entry) for key, x in points.items() for entry in accuracies(*key).values()]
    for (model, _), x, entry in dots:
        axis.plot(x, entry.top1, MARKERS[entry.training], color=OTHERS if model.startswith('timm/') else OURS)
    axis.set_xlabel(label)
    axis.set_ylabel('published top-1, %')
    axis.margins(x=0.25, y=0.1)
    axis.grid(alpha=0.3)
    handles = [
        Line2D([], [], linestyle='', marker=marker, color='black', label=f'{training} training')
        for training, marker in MARKERS.items()
        if any(entry.training == training for _, _, entry in dots)
    ]
    axis.legend(handles=handles, loc='best', fontsize=8)
    axis.figure.draw_without_rendering()  # the places of labels are known behind it
    centers = (axis.transData.transform((x, entry.top1)) for _, x, entry in dots)
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in centers]
    taken.append(axis.get_legend().get_window_extent())
    for _, x, entry in dots:
        taken.append(annotate(axis, x, entry.top1, entry.label, taken))


def annotate(axis, x, accuracy, name, taken):
    """Name a point where neither a point nor a label is yet, if there is such a place; the label's box."""
    places = [((x, y), side) for y in (4, -11, 14, -21, 24, -31) for x, side in ((5, 'left'), (-5, 'right'))]
    for offset, side in places:
        label = axis.annotate(
            name, (x, accuracy), xytext=offset, textcoords='offset points', fontsize=7, ha=side
        )
        box = label.get_window_extent()
        inside = box.x0 > axis.bbox.x0 and box.x1 < axis.bbox.x1
        if inside and not any(box.overlaps(other) for other in taken):
            break
        label.set_visible(False)
    label.set_visible(True)
    return box


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument('files', nargs='+', type=Path, help='what benchmark.py --json has written')
    parser.add_argument('--out', type=Path, required=True, help='the picture')
    args = parser.parse_args(argv)
    contents = [json.loads(path.read_text()) for path in args.files]
    threads = [result['threads'] for content in contents for result in content['results']]
    for what, values in (
        ('machine', [content['machine'] for content in contents]),
        ('number of threads', threads),
        (' or '.join(SETTINGS), [[content['settings'][name] for name in SETTINGS] for content in contents]),
    ):
        if any(value != values[0] for value in values):
            parser.error(f'the files have more than one {what}: {values[0]} and others')
    drawn = panels(contents)
    if not drawn:
        parser.error(f'none of {networks()} is in the files')
    figure = Figure(figsize=(5.5 * len(drawn), 5), layout='constrained')
    for axis, (points, label) in zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn):
        draw(axis, points, label)
    machine, dtype = contents[0]['machine'], contents[0]['settings']['dtype']
    where = machine.get('gpu') or f'{machine["processor"]}, threads: {threads[0]}'
    figure.suptitle(f'{where}, {dtype}, torch {machine["torch"]}', fontsize=9)
    figure.savefig(args.out, dpi=120)


if __name__ == '__main__':
    main()
