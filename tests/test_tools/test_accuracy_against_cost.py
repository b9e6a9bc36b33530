"""Tables and plots of accuracy against cost and speed: content and legibility."""

import itertools
import json
import random
import re
import sys

import pytest

from ..conftest import ROOT, load_script

TOOLS = ROOT / 'tools/analysis_tools'
TIMES = {(1, 'plain'): 50.0, (1, 'deploy'): 40.0, (1, 'deploy+onnx'): 30.0, (16, 'deploy'): 400.0}


def written(path, processor='A', threads=1, train=False, device='cpu', **results):
    """A file in the format of the benchmark, with batch-1 and batch-16 times of each model."""
    rows = [
        dict(
            model=name,
            size=[256, 256],
            batch=batch,
            threads=threads,
            variant=variant,
            median=median,
            images_per_second=1e3 * batch / median,
        )
        for name, times in results.items()
        for (batch, variant), median in times.items()
    ]
    content = dict(machine=dict(processor=processor, torch='2.1'), results=rows)
    settings = dict(dtype='float32', device=device, train=train)
    path.write_text(json.dumps(dict(content, settings=settings)))
    return path


@pytest.fixture
def plot(monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    return load_script(TOOLS / 'benchmark_plot.py')


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    return load_script(TOOLS / 'accuracy_table.py')


def test_files_of_a_cpu(plot, tmp_path):
    """Latency and throughput of the fastest variant, in two formats and two themes each."""
    contents = plot.read([written(tmp_path / 'a.json', b1=TIMES, unknown=TIMES)])
    drawn = [(panel.name, panel.points) for panel in plot.panels(contents)]
    assert drawn == [('latency', {('b1', 256): 30.0}), ('throughput', {('b1', 256): 40.0})]
    out = tmp_path / 'new' / 'figures'
    plot.main([str(tmp_path / 'a.json'), '--out', str(out), '--only', 'latency'])
    files = {path.name for path in out.iterdir()}
    assert files == {f'accuracy-latency{end}' for end in ('.png', '.svg', '-dark.png', '-dark.svg')}
    assert (out / 'accuracy-latency.png').read_bytes().startswith(b'\x89PNG')


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['b.json'], r'the files have more than one machine'),
        (['threads.json'], r'more than one number of threads: 1 and others'),
        (['gpu.json'], r"more than one dtype or device: \['float32', 'cpu'\] and others"),
        (['--only', 'flops'], r"no data for \['flops'\]; choose from \['latency', 'throughput'\]"),
        (['--out', 'a.json'], r'a\.json is a file; --out takes a folder'),
    ],
)
def test_what_cannot_be_drawn(plot, options, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, differs in (
        ('a', {}),
        ('b', dict(processor='B')),
        ('threads', dict(threads=2)),
        ('gpu', dict(device='cuda')),
    ):
        written(tmp_path / f'{name}.json', b1=TIMES, **differs)
    out = [] if '--out' in options else ['--out', str(tmp_path)]
    with pytest.raises(SystemExit):
        plot.main(['a.json', *options, *out])
    assert re.search(message, capsys.readouterr().err)
    assert not list(tmp_path.glob('*.png'))


@pytest.mark.parametrize(
    ('content', 'message'),
    [(dict(unknown=TIMES), 'none of .* is in the files'), ({}, 'there are no results in')],
)
def test_files_without_a_published_network(plot, tables, content, message, tmp_path, capsys):
    path = str(written(tmp_path / 'a.json', **content))
    for main, arguments in ((plot.main, [path, '--out', str(tmp_path)]), (tables.main, ['times', path])):
        with pytest.raises(SystemExit):
            main(arguments)
        assert re.search(message, capsys.readouterr().err)


def test_files_of_a_gpu(plot, tmp_path):
    """Images/s of inference and of training, one plot each."""
    files = [
        written(
            tmp_path / f'{train}.json', train=train, device='cuda', b1={(128, 'plain'): 64.0 + 64 * train}
        )
        for train in (True, False)
    ]
    drawn = {panel.name: (panel.label, panel.points) for panel in plot.panels(plot.read(files))}
    assert drawn == {
        'throughput': ('inference, images/s, batch 128', {('b1', 256): 2000.0}),
        'training': ('training, images/s, batch 128', {('b1', 256): 1000.0}),
    }


def test_kinds_of_training_are_apart(plot):
    """Two connected markers of different shapes for one network, and a Pareto front for each kind."""
    points = {('b1', 256): 40.0, ('timm/efficientnet_b0', 224): 50.0}
    figure, missing = plot.picture(plot.Panel('latency', 'ms', points, True), plot.THEMES[0], None)
    (axis,) = figure.axes
    lines = [(line.get_marker(), *map(tuple, line.get_data()), line.get_color()) for line in axis.lines]
    red, gray = plot.THEMES[0].ours, plot.THEMES[0].others
    assert [line for line in lines if line[0] != 'None'] == [
        ('o', (40.0,), (79.9,), red),
        ('o', (50.0,), (77.1,), gray),
        ('^', (40.0,), (82.2,), red),
    ]
    assert ('None', (40.0, 40.0), (79.9, 82.2), red) in lines
    assert [text.get_text() for text in axis.texts] == ['MobileMamba-B1', 'EfficientNet-B0'] and not missing
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {'plain training', 'distilled training', 'Pareto front, plain training'} <= set(legend)


@pytest.mark.parametrize(
    ('less_is_better', 'front'), [(True, [(1, 70), (2, 75), (3, 80)]), (False, [(4, 79), (3, 80)])]
)
def test_pareto_front(plot, less_is_better, front):
    """It excludes equal accuracy at a higher cost, and lower accuracy at an equal cost."""
    dots = [(3, 80), (1, 70), (2, 75), (4, 79), (2, 71), (3, 75), (1, 60)]
    assert plot.pareto(dots, less_is_better) == front


def test_a_front_rises_where_a_network_is_reached(plot):
    assert plot.steps([(1, 70), (2, 75)]) == [(1, 70), (2, 70), (2, 75)]
    assert plot.steps([]) == []


@pytest.mark.parametrize('seed', range(3))
def test_labels_do_not_overlap(plot, seed):
    """Networks at random positions: each name occurs once, inside the axes, without overlaps."""
    generator = random.Random(seed)
    networks = sys.modules['published'].networks()
    points = {key: 10 ** generator.uniform(0.5, 2) for key in networks}
    figure, missing = plot.picture(plot.Panel('latency', 'ms', points, True), plot.THEMES[1], 'a caption')
    (axis,) = figure.axes
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axis.texts]
    assert not missing and sorted(text.get_text() for text in axis.texts) == sorted(
        map(plot.name_of, networks)
    )
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    dots = [
        axis.transData.transform((points[key], entry.top1))
        for key in networks
        for entry in plot.accuracies(*key).values()
    ]
    assert not any(box.contains(*dot) for box in boxes for dot in dots)
    for box in boxes:
        assert all(axis.bbox.contains(*corner) for corner in box.corners())


def test_a_label_without_a_place_is_left_out(plot):
    """With many networks at one position, omitted names are reported, and written ones do not overlap."""
    axis = plot.Figure(figsize=(1.2, 1.2), dpi=100).subplots()
    axis.plot(1, 1, 'o')
    labels = plot.Labels(axis, size=7)
    labels.avoid(1, 1, 3)
    for number in range(12):
        labels.add(f'label {number}', [(1, 1)])
    missing = labels.write()
    boxes = [text.get_window_extent() for text in axis.texts]
    assert 0 < len(missing) < 12 and len(missing) + len(boxes) == 12
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


def test_times(tables, tmp_path, capsys):
    """One column for each runtime, with its fastest variant."""
    faster = {(1, 'deploy'): 20.0, (16, 'deploy'): 160.0, (1, 'deploy+onnx_int8'): 10.0}
    path = written(tmp_path / 'a.json', b1=TIMES, **{'timm/fastvit_t12': faster})
    tables.main(['times', str(path)])
    head, _, *lines = capsys.readouterr().out.splitlines()
    assert head == 'A, threads: 1, float32, torch 2.1; ms for a batch of 1, images/s at a batch of 16:'
    runtimes = ('PyTorch', 'ONNX Runtime', 'ONNX Runtime, int8')
    titles = [
        'network',
        'px',
        *(f'{name}, ms' for name in runtimes),
        *(f'{name}, images/s' for name in runtimes),
    ]
    assert cells(lines[0])[: len(titles)] == titles
    accuracies = ['79.3 (300)', '80.3 (300)']
    fastvit = ['FastViT-T12', '256', '20.0', '', '10.0', '100', '', '', '`deploy`', *accuracies]
    ours = [
        'MobileMamba-B1',
        '256',
        '40.0',
        '30.0',
        '',
        '40',
        '',
        '',
        '`deploy`',
        '79.9 (300)',
        '82.2 (1000)',
    ]
    assert [cells(line) for line in lines[2:]] == [fastvit, ours]
    with pytest.raises(SystemExit):
        tables.main(['costs', str(path)])
    assert 'measure with benchmark.py --costs' in capsys.readouterr().err


def cells(line):
    """Cells of a table row."""
    return [cell.strip() for cell in line.strip('|').split('|')]


def test_the_page_has_what_is_published(tables):
    """The table of costs in docs/performance.md has every network with its accuracies and source."""
    page = (ROOT / 'docs/performance.md').read_text().partition('### Accuracy against cost')[2]
    found = {}
    for line in itertools.takewhile(
        lambda line: line.startswith('|'), page[page.index('| network') :].splitlines()[2:]
    ):
        network, size, *rest = cells(line)
        found[network, int(size)] = rest
    published = sys.modules['published']
    entries = {}
    for entry in (*published.PUBLISHED, *published.UNMEASURED):
        entries.setdefault((entry.label, entry.size), []).append(entry)
    assert list(found) != [] and set(found) == set(entries)
    for key, (_, _, *rest) in found.items():
        assert rest == [*tables.accuracy_cells(entries[key]), tables.source_cell(entries[key][0].source)]
    costs = load_script(TOOLS / 'costs.py')
    counted = costs.count_costs(costs.benchmark_models.build('t2', classifier=True), (192, 192))
    numbers = [f'{counted["parameters"] / 1e6:.2f}', f'{counted["flops"] / 1e9:.3f}']
    assert found['MobileMamba-T2', 192][:2] == numbers
