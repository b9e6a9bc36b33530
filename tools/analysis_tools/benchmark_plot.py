"""Draw published accuracy against latency and throughput, from files that ``benchmark.py`` has written.

    python tools/analysis_tools/benchmark_plot.py mobilemamba.json timm.json --out speed.png

Of every model the fastest variant is taken, at the smallest batch for the latency and at the largest for the
throughput. All files have to come from one machine. Accuracies are published ones, see ``TOP1``; none was
measured here.
"""

import argparse
import json
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

# Top-1 on ImageNet-1k in percent, at these sizes in pixels, without distillation unless that is said.
# Sources: MobileMamba https://arxiv.org/abs/2411.15941, MobileNetV4 2404.10518, RepViT 2307.09283,
# FastViT 2303.14189, EfficientNet 1905.11946, MobileOne 2206.04040, EfficientViT 2305.07027.
TOP1 = {
    ('t2', 192): (73.6, 'MobileMamba-T2'),
    ('t4', 192): (76.1, 'MobileMamba-T4'),
    ('s6', 224): (78.0, 'MobileMamba-S6'),
    ('b1', 256): (79.9, 'MobileMamba-B1'),
    ('timm/mobilenetv4_conv_medium', 256): (79.9, 'MobileNetV4-Conv-M'),
    ('timm/repvit_m1_1', 224): (80.7, 'RepViT-M1.1 (distilled)'),
    ('timm/fastvit_t12', 256): (79.1, 'FastViT-T12'),
    ('timm/efficientnet_b0', 224): (77.1, 'EfficientNet-B0'),
    ('timm/mobileone_s2', 224): (77.4, 'MobileOne-S2'),
    ('timm/efficientvit_m5', 224): (77.1, 'EfficientViT-M5'),
}

SETTINGS = ('dtype', 'device', 'train')  # in which the files must agree


def fastest(results, batch):
    """Median time of a batch in ms by model, of its fastest variant (dict)."""
    times = {}
    for result in results:
        key = result['model'], result['size'][0]
        if key in TOP1 and result['batch'] == batch:
            times[key] = min(result['median'], times.get(key, result['median']))
    return times


def draw(axis, points, label):
    """Scatter ``points`` (dict of model to x) with their names."""
    for key, x in points.items():
        ours = not key[0].startswith('timm/')
        axis.plot(x, TOP1[key][0], 'o', color='tab:red' if ours else 'tab:gray')
    axis.set_xlabel(label)
    axis.set_ylabel('published top-1, %')
    axis.margins(x=0.25, y=0.1)
    axis.grid(alpha=0.3)
    axis.figure.draw_without_rendering()  # the places of labels are known behind it
    centers = (axis.transData.transform((x, TOP1[key][0])) for key, x in points.items())
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in centers]
    for key, x in points.items():
        taken.append(annotate(axis, x, *TOP1[key], taken))


def annotate(axis, x, accuracy, name, taken):
    """Name a point where neither a point nor a label is yet, if there is such a place; the label's box."""
    right, left = ((5, y) for y in (4, -11, -21)), ((-5, y) for y in (4, -11, -21))
    for offset, side in (*((place, 'left') for place in right), *((place, 'right') for place in left)):
        label = axis.annotate(
            name, (x, accuracy), xytext=offset, textcoords='offset points', fontsize=8, ha=side
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
    results = [result for content in contents for result in content['results']]
    settings = [[content['settings'][name] for name in SETTINGS] for content in contents]
    for what, values in (
        ('machine', [content['machine'] for content in contents]),
        ('number of threads', [result['threads'] for result in results]),
        (' or '.join(SETTINGS), settings),
    ):
        if any(value != values[0] for value in values):
            parser.error(f'the files have more than one {what}: {values[0]} and others')
    batches = [result['batch'] for result in results]
    small, large = min(batches), max(batches)
    latency = fastest(results, small)
    throughput = {key: 1e3 * large / time for key, time in fastest(results, large).items()}
    if not latency:
        parser.error(f'none of {[key[0] for key in TOP1]} is in the files')
    figure = Figure(figsize=(11, 4.5), layout='constrained')
    left, right = figure.subplots(1, 2)
    draw(left, latency, f'ms for a batch of {small}')
    draw(right, throughput, f'images a second, batch {large}')
    machine, dtype = contents[0]['machine'], contents[0]['settings']['dtype']
    title = f'{machine["processor"]}, threads: {results[0]["threads"]}, {dtype}, torch {machine["torch"]}'
    figure.suptitle(title, fontsize=9)
    figure.savefig(args.out, dpi=120)


if __name__ == '__main__':
    main()
