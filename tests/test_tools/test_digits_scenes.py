"""``tools/dataset_converters/digits_scenes.py``: its output and behaviour."""

import errno
import filecmp
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

np = pytest.importorskip('numpy')
mask_codes = pytest.importorskip('pycocotools.mask')
Image = pytest.importorskip('PIL.Image')
datasets = pytest.importorskip('sklearn.datasets')
pytest.importorskip('tqdm')

SCRIPT = Path(__file__).resolve().parents[2] / 'tools' / 'dataset_converters' / 'digits_scenes.py'
SPEC = importlib.util.spec_from_file_location('digits_scenes', SCRIPT)
digits_scenes = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(digits_scenes)

COUNTS = {'train': 12, 'val': 4}
SIZE = 160
ARGUMENTS = ['--train', '12', '--val', '4']
TINY = ['--train', '2', '--val', '1', '--size', '64', '--digits', '1', '2']
NAMES = ['zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine']
ADE = {'train': 'training', 'val': 'validation'}
SPLITS = pytest.mark.parametrize('split', ['train', 'val'])


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    """A dataset that tests do not modify."""
    out = tmp_path_factory.mktemp('digits') / 'scenes'
    digits_scenes.main([str(out), *ARGUMENTS])
    return out


@pytest.fixture
def tiny(tmp_path):
    """A dataset that tests may modify."""
    out = tmp_path / 'tiny'
    digits_scenes.main([str(out), *TINY])
    return out


def files_of(root):
    return sorted(path.relative_to(root).as_posix() for path in root.rglob('*') if path.is_file())


def snapshot(root):
    """Return modification time (ns) and content of every file."""
    return {name: ((root / name).stat().st_mtime_ns, (root / name).read_bytes()) for name in files_of(root)}


def load_coco(root, split):
    return json.loads((root / 'coco' / 'annotations' / f'instances_{split}.json').read_text())


def scene_masks(coco, image):
    """Return the image's annotations and their decoded masks, bool (N, H, W)."""
    found = [each for each in coco['annotations'] if each['image_id'] == image['id']]
    masks = [mask_codes.decode(each['segmentation']) for each in found]
    return found, np.array(masks).astype(bool)


def make_scenes(count, split='train', size=SIZE, digits=(3, 8)):
    """Return ``count`` scenes and their components without writing them."""
    sources = digits_scenes.load_sources(0)[split]
    rngs = [digits_scenes.make_rng(0, ['train', 'val'].index(split), index) for index in range(count)]
    return [digits_scenes.make_scene(rng, sources, size, digits) for rng in rngs], sources


def set_free(monkeypatch, free):
    """Simulate ``free`` bytes on every disk."""
    usage = shutil.disk_usage('.')._replace(free=free)
    monkeypatch.setattr(shutil, 'disk_usage', lambda folder: usage)


def fail(*argv, says=()):
    """Run with ``argv`` and check that the error message contains all of ``says``; returns it."""
    with pytest.raises(SystemExit) as stop:
        digits_scenes.main([str(each) for each in argv])
    assert isinstance(stop.value.code, str)  # written to stderr, with exit status 1
    assert [part for part in says if part not in stop.value.code] == []
    return stop.value.code


def test_layout(dataset):
    expected = {'manifest.json', *(f'coco/annotations/instances_{split}.json' for split in COUNTS)}
    for split, count in COUNTS.items():
        for folder in (f'coco/{split}', f'ade/images/{ADE[split]}', f'ade/annotations/{ADE[split]}'):
            expected |= {f'{folder}/{number:06d}.png' for number in range(1, count + 1)}
        assert sorted(path.name for path in (dataset / 'imagenet' / split).iterdir()) == sorted(NAMES)
    assert {name for name in files_of(dataset) if not name.startswith('imagenet/')} == expected
    assert not dataset.with_name('scenes.partial').exists()


def test_same_arguments_give_same_bytes(dataset, tmp_path):
    other = tmp_path / 'other' / 'name'
    command = [sys.executable, str(SCRIPT), str(other), *ARGUMENTS]
    done = subprocess.run(command, stderr=subprocess.PIPE, env=dict(os.environ, PYTHONHASHSEED='7'))
    assert done.returncode == 0, done.stderr
    names = files_of(dataset)
    assert files_of(other) == names
    assert len(names) == 3 * 16 + 3 + sum(len(load_coco(dataset, split)['annotations']) for split in COUNTS)
    assert filecmp.cmpfiles(dataset, other, names, shallow=False)[0] == names


def test_first_scenes_do_not_depend_on_counts(dataset, tmp_path):
    out = tmp_path / 'fewer'
    digits_scenes.main([str(out), '--train', '2', '--val', '3'])
    for split, count in {'train': 2, 'val': 3}.items():
        crops = files_of(dataset / 'imagenet' / split)
        crops = [name for name in crops if int(name.split('/')[1][:6]) <= count]
        assert files_of(out / 'imagenet' / split) == crops
        for view in (f'coco/{split}', f'ade/annotations/{ADE[split]}', f'imagenet/{split}'):
            names = files_of(out / view)
            assert filecmp.cmpfiles(dataset / view, out / view, names, shallow=False)[0] == names
        few, many = load_coco(out, split), load_coco(dataset, split)
        assert few['annotations'] == many['annotations'][: len(few['annotations'])]


def test_other_seed_gives_other_scenes_and_split(dataset, tmp_path):
    out = tmp_path / 'seed'
    digits_scenes.main([str(out), '--train', '1', '--val', '1', '--seed', '1'])
    picture = 'coco/train/000001.png'
    assert (out / picture).read_bytes() != (dataset / picture).read_bytes()
    scans = [set(json.loads((root / 'manifest.json').read_text())['scans']['val']) for root in (out, dataset)]
    assert len(scans[0]) == len(scans[1])
    assert len(scans[0] & scans[1]) < 150  # of 359; 72 are expected by chance


def test_splits_share_no_scan(dataset):
    scans = json.loads((dataset / 'manifest.json').read_text())['scans']
    target = datasets.load_digits().target
    assert len(scans['train']) == len(set(scans['train'])) == 1438
    assert len(scans['val']) == len(set(scans['val'])) == 359
    assert sorted(scans['train'] + scans['val']) == list(range(1797))
    for label in range(10):
        share = np.mean([index in set(scans['val']) for index in np.flatnonzero(target == label)])
        assert abs(share - 0.2) < 0.005
    for split in COUNTS:
        annotations = load_coco(dataset, split)['annotations']
        assert {each['scan'] for each in annotations} <= set(scans[split])
        assert all(target[each['scan']] == each['category_id'] - 1 for each in annotations)


def test_splits_share_no_part_of_a_photo():
    sources = digits_scenes.load_sources(0)
    for left, right in zip(sources['train'].photos, sources['val'].photos):
        assert left.shape == (427, 384, 3)
        assert right.shape == (427, 256, 3)
    photos = datasets.load_sample_images().images
    for split, columns in {'train': np.s_[:384], 'val': np.s_[384:]}.items():
        for part, photo in zip(sources[split].photos, photos):
            assert np.array_equal(part, photo[:, columns])


@SPLITS
def test_coco_file(dataset, split):
    coco = load_coco(dataset, split)
    assert [(each['id'], each['name']) for each in coco['categories']] == list(enumerate(NAMES, 1))
    assert {'description', 'version', 'year', 'contributor', 'url', 'date_created'} <= set(coco['info'])
    assert all(set(each) == {'id', 'name', 'url'} for each in coco['licenses'])
    assert {each['license'] for each in coco['images']} <= {each['id'] for each in coco['licenses']}
    assert [each['id'] for each in coco['images']] == list(range(1, COUNTS[split] + 1))
    assert [each['id'] for each in coco['annotations']] == list(range(1, len(coco['annotations']) + 1))
    for image in coco['images']:
        with Image.open(dataset / 'coco' / split / image['file_name']) as picture:
            assert (picture.mode, picture.size) == ('RGB', (SIZE, SIZE))
        assert (image['width'], image['height']) == (SIZE, SIZE)
        assert 3 <= sum(each['image_id'] == image['id'] for each in coco['annotations']) <= 8


@SPLITS
def test_pycocotools_loads_it(dataset, split):
    api = pytest.importorskip('pycocotools.coco').COCO(
        str(dataset / 'coco' / 'annotations' / f'instances_{split}.json')
    )
    assert len(api.getImgIds()) == COUNTS[split]
    assert api.getCatIds() == list(range(1, 11))
    for annotation in api.loadAnns(api.getAnnIds()):
        assert annotation['iscrowd'] == 0
        assert isinstance(annotation['segmentation']['counts'], str)
        assert api.annToMask(annotation).sum() == annotation['area']


@SPLITS
def test_boxes_are_tight_and_masks_do_not_overlap(dataset, split):
    coco = load_coco(dataset, split)
    for image in coco['images']:
        annotations, masks = scene_masks(coco, image)
        assert masks.shape == (len(annotations), SIZE, SIZE)
        assert masks.sum(0).max() == 1
        for annotation, mask in zip(annotations, masks):
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            width, height = columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1
            assert annotation['bbox'] == [columns[0], rows[0], width, height]
            assert annotation['area'] == mask.sum() > 0


def replay_scene(scene, sources):
    """Paste the digits' complete masks in order; returns the map of owners and the complete areas."""
    owner, areas = np.zeros(scene.owner.shape, int), []
    for number, digit in enumerate(scene.digits, 1):
        mask = digits_scenes.render_alpha(sources.scans[digit.scan], digit.side, digit.angle) >= 0.5
        height, width = mask.shape
        owner[digit.top : digit.top + height, digit.left : digit.left + width][mask] = number
        areas.append(mask.sum())
    return owner, areas


def test_later_digits_occlude_earlier_ones_within_bounds():
    scenes, sources = make_scenes(20, digits=(6, 10))
    fractions = []
    for scene in scenes:
        owner, areas = replay_scene(scene, sources)
        assert np.array_equal(owner, scene.owner)
        fractions += [(owner == number).sum() / area for number, area in enumerate(areas, 1)]
        annotations = digits_scenes.make_annotations(scene, 1, 1)
        expected = fractions[-len(areas) :]
        assert [each['visible_fraction'] for each in annotations] == pytest.approx(expected, abs=1e-4)
    assert min(fractions) >= 0.7
    assert sum(fraction < 1 for fraction in fractions) > 10  # some digits are occluded


@pytest.mark.parametrize('size', [64, 160, 320])
def test_digit_sizes_scale_with_the_picture(size):
    scenes, _ = make_scenes(6, size=size)
    sides = [digit.side for scene in scenes for digit in scene.digits]
    angles = [digit.angle for scene in scenes for digit in scene.digits]
    assert round(20 * size / 160) <= min(sides) < 30 * size / 160
    assert 46 * size / 160 < max(sides) <= round(56 * size / 160)
    assert max(np.abs(angles)) <= 15
    for scene in scenes:
        assert (scene.image.shape, scene.image.dtype) == ((size, size, 3), np.uint8)


def test_digits_stand_out_from_what_is_around_them():
    scenes, _ = make_scenes(20)
    contrasts = []
    for scene in scenes:
        luminance = scene.image @ np.array([0.299, 0.587, 0.114])
        background = (scene.owner == 0) & ~scene.rim
        for number, digit in enumerate(scene.digits, 1):
            window = np.s_[digit.top : digit.top + digit.side, digit.left : digit.left + digit.side]
            inside = luminance[window][scene.owner[window] == number]
            around = luminance[window][background[window]]
            contrasts.append(abs(np.median(inside) - np.median(around)))
    assert len(contrasts) > 80
    assert min(contrasts) > 40  # 45 is requested, before camera noise


def test_no_tint_on_surroundings_of_every_luminance():
    rng = digits_scenes.make_rng(0, 0)
    ramp = np.repeat(np.linspace(0, 255, 256)[:, None], 3, axis=1)
    assert digits_scenes.choose_tint(rng, ramp) is None
    tint = digits_scenes.choose_tint(rng, np.full((9, 3), 128.0))
    assert abs(tint @ digits_scenes.LUMINANCE - 128) >= 45


@SPLITS
def test_semantic_maps_agree_with_masks(dataset, split):
    coco, seen = load_coco(dataset, split), set()
    for image in coco['images']:
        with Image.open(dataset / 'ade' / 'annotations' / ADE[split] / image['file_name']) as picture:
            assert picture.mode == 'L'
            labels = np.asarray(picture)
        assert (labels.shape, labels.dtype) == ((SIZE, SIZE), np.uint8)
        annotations, masks = scene_masks(coco, image)
        for annotation, mask in zip(annotations, masks):
            assert np.all(labels[mask] == annotation['category_id'] + 1)
        outside = ~masks.any(0)
        assert set(np.unique(labels[outside])) == {0, 1}
        assert 0.001 < np.mean(labels == 0) < 0.15  # a thin rim
        grown = np.pad(~outside, 5)
        shifts = [np.roll(grown, (dy, dx), (0, 1)) for dy in range(-5, 6) for dx in range(-5, 6)]
        assert np.any(shifts, axis=0)[5:-5, 5:-5][labels == 0].mean() > 0.99  # adjacent to digits
        seen |= set(np.unique(labels))
    assert seen <= set(range(12))
    same = dataset / 'coco' / split / '000001.png', dataset / 'ade' / 'images' / ADE[split] / '000001.png'
    assert same[0].read_bytes() == same[1].read_bytes()


@SPLITS
def test_crops_agree_with_instances(dataset, split):
    coco, crops = load_coco(dataset, split), dataset / 'imagenet' / split
    assert len(files_of(crops)) == len(coco['annotations'])
    numbers = dict.fromkeys((image['id'] for image in coco['images']), 0)
    for annotation in coco['annotations']:
        numbers[annotation['image_id']] += 1
        stem = f'{annotation["image_id"]:06d}'
        folder = crops / NAMES[annotation['category_id'] - 1]
        crop = np.asarray(Image.open(folder / f'{stem}_{numbers[annotation["image_id"]]:02d}.png'))
        x, y, width, height = annotation['bbox']
        side = round(1.2 * max(width, height))
        assert crop.shape == (side, side, 3)
        picture = np.asarray(Image.open(dataset / 'coco' / split / f'{stem}.png'))
        windows = np.lib.stride_tricks.sliding_window_view(picture, (side, side, 3))[:, :, 0]
        tops = range(max(y + height - side, 0), min(y, SIZE - side) + 1)
        lefts = range(max(x + width - side, 0), min(x, SIZE - side) + 1)
        assert any(np.array_equal(windows[top, left], crop) for top in tops for left in lefts)


def test_second_run_changes_nothing(tiny, capsys):
    before = snapshot(tiny)
    digits_scenes.main([str(tiny), *TINY])
    assert 'nothing to do' in capsys.readouterr().out
    assert snapshot(tiny) == before
    assert len(before) > 9


def test_other_arguments_are_refused_and_overwrite_replaces(tiny, capsys):
    before = snapshot(tiny)
    fail(tiny, *TINY, '--seed', 5, says=['--seed 0 --train 2', '--seed 5 --train 2', '--overwrite'])
    assert snapshot(tiny) == before
    digits_scenes.main([str(tiny), *TINY, '--seed', '5', '--overwrite'])
    assert json.loads((tiny / 'manifest.json').read_text())['arguments']['seed'] == 5
    assert (tiny / 'coco/train/000001.png').read_bytes() != before['coco/train/000001.png'][1]
    digits_scenes.main([str(tiny), *TINY, '--seed', '5'])
    assert 'nothing to do' in capsys.readouterr().out


def test_dataset_of_another_version_is_refused(tiny, monkeypatch):
    monkeypatch.setattr(digits_scenes, 'VERSION', 99)
    fail(tiny, *TINY, says=['(version 1)', '(version 99)'])


@pytest.mark.parametrize('name', ['coco/val/000001.png', 'coco/annotations/instances_train.json'])
def test_missing_file_is_named(tiny, name):
    before = (tiny / name).read_bytes()
    (tiny / name).unlink()
    fail(tiny, *TINY, says=[f'{name} (missing)', '--overwrite'])
    digits_scenes.main([str(tiny), *TINY, '--overwrite'])
    assert (tiny / name).read_bytes() == before


def test_changed_annotation_is_named(tiny):
    path = tiny / 'ade' / 'annotations' / 'training' / '000002.png'
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(path)
    fail(tiny, *TINY, says=['ade/annotations/training/000002.png (changed)'])


@pytest.mark.parametrize('content', [None, '', '{"half', '[1]', '{"images": []}'])
def test_missing_or_broken_manifest_is_named(tiny, content):
    (tiny / 'manifest.json').unlink()
    if content is not None:
        (tiny / 'manifest.json').write_text(content)
    fail(tiny, *TINY, says=['manifest.json (missing or not valid)', '--overwrite'])
    digits_scenes.main([str(tiny), *TINY, '--overwrite'])
    digits_scenes.main([str(tiny), *TINY])


def test_interrupted_run_is_said_and_started_over(tiny, tmp_path, capsys, monkeypatch):
    out, partial = tmp_path / 'broken', tmp_path / 'broken.partial'
    write_scene = digits_scenes.write_scene

    def interrupt(root, split, name, scene, annotations):
        if split == 'val':
            raise KeyboardInterrupt
        write_scene(root, split, name, scene, annotations)

    monkeypatch.setattr(digits_scenes, 'write_scene', interrupt)
    fail(out, *TINY, says=['interrupted'])
    assert not out.exists()
    assert (partial / 'coco' / 'train' / '000002.png').is_file()
    (partial / 'stale.txt').write_text('of the interrupted run')
    monkeypatch.undo()
    capsys.readouterr()
    digits_scenes.main([str(out), *TINY])
    assert 'interrupted run: starting over' in capsys.readouterr().out
    assert not partial.exists()
    names = files_of(tiny)
    assert files_of(out) == names
    assert filecmp.cmpfiles(tiny, out, names, shallow=False)[0] == names


def test_foreign_partial_is_left_alone(tmp_path):
    partial = tmp_path / 'out.partial'
    partial.mkdir()
    (partial / 'thesis.txt').write_text('mine')
    fail(tmp_path / 'out', *TINY, says=['out.partial'])
    assert (partial / 'thesis.txt').read_text() == 'mine'


@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EACCES])
def test_disk_that_fails_while_writing(tmp_path, monkeypatch, number):
    save, calls = Image.Image.save, []

    def fail_later(image, path, **options):
        calls.append(path)
        if len(calls) > 3:
            raise OSError(number, os.strerror(number), str(path))
        save(image, path, **options)

    monkeypatch.setattr(Image.Image, 'save', fail_later)
    message = fail(tmp_path / 'out', *TINY, says=[os.strerror(number), str(tmp_path / 'out.partial')])
    assert ('Free some space' in message) == (number == errno.ENOSPC)
    assert len(calls) == 4
    assert list(tmp_path.iterdir()) == []


def test_too_small_disk_is_noticed_before_writing(tmp_path, monkeypatch):
    set_free(monkeypatch, 2**20)
    fail(tmp_path / 'out', says=['has 1 MiB free', '--train'])
    assert list(tmp_path.iterdir()) == []


def test_disk_estimate_is_an_upper_bound(dataset, monkeypatch):
    used = sum(
        path.stat().st_blocks * 512 for path in dataset.rglob('*.png') if 'ade/images' not in str(path)
    )
    arguments = json.loads((dataset / 'manifest.json').read_text())['arguments']
    set_free(monkeypatch, used)
    with pytest.raises(digits_scenes.DatasetError, match='MiB free'):
        digits_scenes.check_disk(dataset, arguments)
    set_free(monkeypatch, 4 * used)
    digits_scenes.check_disk(dataset, arguments)


def test_overwrite_that_fails_keeps_the_old_dataset(tiny, monkeypatch):
    before = snapshot(tiny)
    set_free(monkeypatch, 0)
    fail(tiny, *TINY, '--seed', 1, '--overwrite')
    assert snapshot(tiny) == before
    assert not tiny.with_name('tiny.partial').exists()


@pytest.mark.parametrize(
    'names', [['thesis.txt'], ['coco/annotations/instances_train2017.json', 'ade/x.png']]
)
@pytest.mark.parametrize('options', [[], ['--overwrite']])
def test_foreign_folder_is_left_alone(tmp_path, names, options):
    out = tmp_path / 'data'
    for name in names:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text('{}')
    fail(out, *TINY, *options, says=['did not write', 'new or empty folder'])
    assert files_of(out) == sorted(names)


def test_overwrite_refuses_a_dataset_with_a_foreign_file(tiny, capsys):
    (tiny / 'thesis.txt').write_text('mine')
    fail(tiny, *TINY, '--overwrite', says=['thesis.txt'])
    assert (tiny / 'thesis.txt').read_text() == 'mine'
    digits_scenes.main([str(tiny), *TINY])  # without deletion, no files are changed
    assert 'nothing to do' in capsys.readouterr().out


def test_file_in_the_way(tmp_path):
    (tmp_path / 'out').write_text('mine')
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path / 'out')], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (1, '')
    assert re.fullmatch(r'digits_scenes.py: error: .*out is a file.*\n', done.stderr)
    fail(tmp_path / 'out' / 'below', *TINY, says=['Check that OUT is writable'])
    assert (tmp_path / 'out').read_text() == 'mine'


def test_empty_folder_is_used(tmp_path):
    (tmp_path / 'out').mkdir()
    digits_scenes.main([str(tmp_path / 'out'), *TINY])
    assert (tmp_path / 'out' / 'manifest.json').is_file()


def test_too_many_digits_for_a_scene(tmp_path, monkeypatch):
    monkeypatch.setattr(digits_scenes, 'MIN_CONTRAST', 300)
    fail(tmp_path / 'out', *TINY, says=['no room for 1 digits'])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ('options', 'parts'),
    [
        (['--train', '0'], ['--train is 0', 'from 1 to 999999']),
        (['--val', '-1'], ['--val is -1', 'from 1 to 999999']),
        (['--size', '63'], ['--size is 63', 'from 64 to 1024']),
        (['--size', '4096'], ['--size is 4096', 'from 64 to 1024']),
        (['--seed', '-1'], ['--seed is -1', 'from 0 to 4294967295']),
        (['--digits', '5', '4'], ['--digits is 5 4', 'from 1 to 20', 'the smaller one first']),
        (['--digits', '0', '4'], ['--digits is 0 4', 'from 1 to 20']),
        (['--digits', '3', '21'], ['--digits is 3 21', 'from 1 to 20']),
        (['--digits', '3'], ['--digits', 'expected 2 arguments']),
        (['--train', 'many'], ['--train', "'many'"]),
    ],
)
def test_wrong_arguments(tmp_path, capsys, options, parts):
    with pytest.raises(SystemExit) as stop:
        digits_scenes.main([str(tmp_path / 'out'), *options])
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert all(part in message for part in parts), message
    assert list(tmp_path.iterdir()) == []
