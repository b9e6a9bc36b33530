"""Plot published accuracy against cost and speed, from results of ``benchmark.py`` or ``gpu_report.py``.

    python tools/analysis_tools/benchmark_plot.py all.json --out docs/images
    python tools/analysis_tools/benchmark_plot.py report/inference.json report/training.json --out pictures

Draws the figures for which the files have data:

accuracy-flops, accuracy-parameters  if measured with benchmark.py --costs
accuracy-latency                     on a CPU, at the smallest batch size
accuracy-throughput                  at the largest batch size
accuracy-training                    training throughput

Each figure is written as PNG and SVG, on a light background and, with ``-dark`` in the name, on a dark one.
The fastest variant of each network is used. All files must come from one machine. Accuracies are published
ones, see ``published.py``; none was measured here.

The stepped lines are Pareto fronts, one for each kind of training: no network lies above its line.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import matplotlib
from benchmark_results import about, fastest, key_of, read
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from plot_labels import Labels
from published import DISTILLED, PLAIN, accuracies, networks

SIZE, DPI = (4.4, 7.0), 220  # inches; portrait, to be readable on a phone
MARKERS = {PLAIN: 'o', DISTILLED: '^'}
STYLES = {PLAIN: '-', DISTILLED: (0, (4, 2))}  # of the Pareto fronts
RADIUS = 3  # points around a marker that labels keep clear of


class Theme(NamedTuple):
    """Colours of a figure."""

    suffix: str  # of the file name
    background: str
    text: str
    ours: str
    others: str
    front: str


THEMES = (
    Theme('', 'white', '#1f2328', '#c1121f', '#57606a', '#7aa7d9'),
    Theme('-dark', '#0d1117', '#e6edf3', '#ff7b72', '#a0a8b2', '#3d6ea5'),
)


class Panel(NamedTuple):
    """The horizontal axis of one figure.

    Args:
        name (str): Last part of the file name.
        label (str): Axis label.
        points (dict): Values by model and size.
        less_is_better (bool): Whether the value is a cost.
    """

    name: str
    label: str
    points: dict
    less_is_better: bool


def costs(results, name, unit):
    """A cost by model and size, in ``unit`` (dict)."""
    found = {key_of(result): result[name] / unit for result in results if name in result}
    return {key: value for key, value in found.items() if accuracies(*key)}


def panels(contents):
    """The figures to draw (list[Panel])."""
    by_mode = {False: [], True: []}
    for content in contents:
        by_mode[content['settings']['train']] += content['results']
    everything = by_mode[False] + by_mode[True]
    found = [
        Panel('flops', 'FLOPs, G (multiply-adds)', costs(everything, 'flops', 1e9), True),
        Panel('parameters', 'parameters, M', costs(everything, 'parameters', 1e6), True),
    ]
    on_gpu = contents[0]['settings']['device'].startswith('cuda')
    for train, results in by_mode.items():
        if not results:
            continue
        batches = [result['batch'] for result in results]
        small, large = min(batches), max(batches)
        if not on_gpu and not train:
            times = {key: result['median'] for key, result in fastest(results, small).items()}
            found.append(Panel('latency', f'ms for a batch of {small}', times, True))
        rates = {key: 1e3 * large / result['median'] for key, result in fastest(results, large).items()}
        name, step = ('training', 'training') if train else ('throughput', 'inference')
        found.append(Panel(name, f'{step}, images/s, batch {large}', rates, False))
    return [panel for panel in found if panel.points]


def pareto(dots, less_is_better):
    """The Pareto-optimal dots, ``(x, top1)``, the cheapest first (list)."""
    found, best = [], float('-inf')
    for x, top1 in sorted(dots, key=lambda dot: (dot[0] if less_is_better else -dot[0], -dot[1])):
        if top1 > best:
            found.append((x, top1))
            best = top1
    return found


def steps(front):
    """Corners of the stepped line through a front (list); it rises at each network."""
    corners = front[:1]
    for (_, below), (x, top1) in zip(front, front[1:]):
        corners += [(x, below), (x, top1)]
    return corners


def draw(figure, panel, theme):
    """Draw one panel; returns the labels that did not fit (list[str])."""
    axis = figure.subplots()
    axis.set_xscale('log')
    published = {key: accuracies(*key) for key in panel.points}
    fronts = []
    for kind, marker in MARKERS.items():
        dots = {
            key: (panel.points[key], kinds[kind].top1) for key, kinds in published.items() if kind in kinds
        }
        for key, dot in dots.items():
            color = theme.others if is_of_timm(key) else theme.ours
            axis.plot(*dot, marker, markersize=4, color=color, zorder=3 if is_of_timm(key) else 4)
        fronts.append(steps(pareto(dots.values(), panel.less_is_better)))
        style = dict(linestyle=STYLES[kind], color=theme.front, linewidth=1, zorder=1)
        axis.plot(*zip(*fronts[-1]), **style)
    decorate(figure, axis, panel, theme)
    return write_labels(axis, panel, [front for front in fronts if front], theme)


def is_of_timm(key):
    """Whether a network comes from timm, so is not MobileMamba."""
    return key[0].startswith('timm/')


def decorate(figure, axis, panel, theme):
    """Draw axes, grid and legend in the colours of a theme."""
    axis.margins(x=0.09, y=0.05)
    axis.set_xlabel(panel.label)
    axis.set_ylabel('published top-1 on ImageNet-1k, %')
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g}'))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.grid(alpha=0.25, color=theme.others, linewidth=0.5)
    handles = [
        Line2D([], [], marker='s', linestyle='', markersize=5, color=theme.ours, label='MobileMamba'),
        Line2D([], [], marker='s', linestyle='', markersize=5, color=theme.others, label='other networks'),
    ]
    for kind, marker in MARKERS.items():
        dot = dict(linestyle='', marker=marker, markersize=4, color=theme.text)
        handles.append(Line2D([], [], label=f'{kind} training', **dot))
        handles.append(
            Line2D([], [], linestyle=STYLES[kind], color=theme.front, label=f'Pareto front, {kind} training')
        )
    figure.legend(handles=handles, loc='outside lower center', ncols=2, fontsize=7, frameon=False)


def write_labels(axis, panel, fronts, theme):
    """Label each network once, next to one of its dots; returns the labels that did not fit (list[str])."""
    labels = Labels(axis, size=6.5)
    for front in fronts:
        labels.avoid_line(front)
    dots = {}
    for key, x in panel.points.items():
        dots[key] = sorted((x, entry.top1) for entry in accuracies(*key).values())
        for dot in dots[key]:
            labels.avoid(*dot, RADIUS)
        if len(dots[key]) > 1:  # one network with two kinds of training
            color = theme.others if is_of_timm(key) else theme.ours
            axis.plot(*zip(*dots[key]), color=color, linewidth=0.5, alpha=0.6, zorder=2)
            labels.avoid_line(dots[key])
    # Background that hides lines below a label.
    box = dict(facecolor=theme.background, edgecolor='none', alpha=0.8, pad=0.3)
    for key in sorted(dots, key=is_of_timm):
        style = dict(color=theme.text) if is_of_timm(key) else dict(color=theme.ours, weight='bold')
        labels.add(name_of(key), dots[key], bbox=box, **style)
    return labels.write()


def name_of(key):
    """Name of a network, with the image size if it is published at several."""
    label = next(iter(accuracies(*key).values())).label
    sizes = [size for model, size in networks() if model == key[0]]
    return label if len(sizes) == 1 else f'{label} @{key[1]}'


def picture(panel, theme, caption):
    """A figure of one panel, and the labels that did not fit (list[str])."""
    names = ('text.color', 'axes.labelcolor', 'xtick.color', 'ytick.color', 'axes.edgecolor')
    colors = dict.fromkeys(names, theme.text)
    backgrounds = dict.fromkeys(('figure.facecolor', 'axes.facecolor', 'savefig.facecolor'), theme.background)
    sizes = {'axes.labelsize': 8, 'xtick.labelsize': 7, 'ytick.labelsize': 7}
    with matplotlib.rc_context({**colors, **backgrounds, **sizes}):
        figure = Figure(figsize=SIZE, dpi=DPI, layout='constrained')
        if caption:
            figure.suptitle(caption, fontsize=6.5)
        return figure, draw(figure, panel, theme)


def parse_args(argv):
    """Parse the command line; returns arguments, the first file's content, and the panels to draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument('files', nargs='+', type=Path, help='output of benchmark.py --json')
    parser.add_argument('--out', type=Path, required=True, help='folder for the figures, created if missing')
    parser.add_argument('--only', nargs='+', metavar='NAME', help='draw only these figures, such as flops')
    args = parser.parse_args(argv)
    if args.out.exists() and not args.out.is_dir():
        parser.error(f'{args.out} is a file; --out takes a folder')
    try:
        contents = read(args.files)
    except ValueError as error:
        parser.error(str(error))
    drawn = panels(contents)
    if not drawn:
        parser.error(f'none of {networks()} is in the files')
    names = [panel.name for panel in drawn]
    unknown = set(args.only or ()) - set(names)
    if unknown:
        parser.error(f'the files have no data for {sorted(unknown)}; choose from {names}')
    return args, contents[0], [panel for panel in drawn if not args.only or panel.name in args.only]


def main(argv=None):
    args, content, drawn = parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    for panel in drawn:
        for theme in THEMES:
            caption = None if panel.name in ('flops', 'parameters') else about(content)
            figure, missing = picture(panel, theme, caption)
            if missing and not theme.suffix:
                print(f'{panel.name}: no place for the names of {", ".join(missing)}')
            path = args.out / f'accuracy-{panel.name}{theme.suffix}'
            with matplotlib.rc_context({'svg.hashsalt': panel.name}):  # makes the SVG reproducible
                figure.savefig(path.with_suffix('.svg'), metadata=dict(Date=None))
            figure.savefig(path.with_suffix('.png'))


if __name__ == '__main__':
    main()
