"""The notebooks of ``demo``: what they are as files, and each run from top to bottom with small numbers."""

import ast
import importlib.util
import os
import re
import sys

import numpy as np
import pytest
from mmengine import load
from mmengine.config import Config
from PIL import Image

from mmmobilemamba.utils import config_path

from .conftest import ROOT, load_script
from .helpers import SMALL, needs_export
from .pages import NOTEBOOKS, cells

nbformat = pytest.importorskip('nbformat')
nbclient = pytest.importorskip('nbclient')
pytest.importorskip('ipykernel')
KernelManager = pytest.importorskip('jupyter_client').KernelManager
setup_env = load_script('tools/misc/setup_env.py')

NO_THRESHOLD = "config.model.test_cfg.score_thr = 0\nconfig.dump('detector.py')"
FEW = dict(SCENES=8, VAL_SCENES=2)  # pictures, of some 4 digits each
VALUES = dict(  # of the cell that is tagged `parameters`
    look_inside=dict(FEW, EPOCHS=1, FIELD_IMAGES=1, FIELD_SIZE=128),
    finetune_detector=dict(FEW, PRETRAIN_EPOCHS=1, EPOCHS=1, SCORE=0.001),
    finetune_segmentor=dict(FEW, PRETRAIN_EPOCHS=1, ITERATIONS=2),
    export_to_onnx=dict(FEW, EPOCHS=1, CONFIG='small.py'),  # T2 takes half a minute to export
)
# Before each notebook: a kernel as new, but for what it has imported. The previous folder may be gone.
START = """
import os
os.chdir({folder!r})
%reset -f
import __main__
from tests.commands import install
from tests.quick_mmengine import leave_out_formatting
__main__.__spec__ = None  # multiprocessing asks for it
install(get_ipython())
if {torch}:
    leave_out_formatting()

def alone(config):
    for split in ('train', 'val', 'test'):
        config[f'{{split}}_dataloader'].update(num_workers=0, persistent_workers=False)
    return config
"""
by_name = pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)


def parameters(notebook):
    """The cell whose values a run may change."""
    (cell,) = (cell for cell in notebook.cells if 'parameters' in cell.metadata.get('tags', ()))
    return cell


def assigned(text):
    """Names that a text assigns values to."""
    targets = (target for node in ast.parse(text).body for target in node.targets)
    return {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}


def test_there_are_four():
    assert {path.stem for path in NOTEBOOKS} == set(VALUES)


@by_name
def test_as_a_file(path):
    """Valid, without outputs, in Jupyter's layout, and with the parameters that are set here."""
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert path.read_text() == nbformat.writes(notebook) + '\n'
    for cell in notebook.cells:
        assert cell.source.strip()
        if cell.cell_type == 'code':
            assert cell.outputs == [] and cell.execution_count is None, cell.id
    assert assigned(parameters(notebook).source) == set(VALUES[path.stem])


@by_name
def test_first_cell_installs_on_colab(path):
    """All alike; only where the package is missing; with the files, extras and versions that there are."""
    first = cells(path, 'code')[0]
    assert first == cells(NOTEBOOKS[0], 'code')[0]
    lines = [line for line in first.splitlines() if line]
    assert lines[:2] == ['import importlib.util', "if importlib.util.find_spec('mmmobilemamba') is None:"]
    assert all(line.startswith('    ') for line in lines[2:])
    for file in re.findall(r'clone/(\S+)', first):
        assert (ROOT / file).is_file(), file
    extras = re.search(r'"\./clone\[(.*)\]"', first)[1].split(',')
    assert set(extras) <= set(re.findall(r"'(\w+)'", (ROOT / 'setup.py').read_text()))
    pins = setup_env.pinned_versions(None)
    assert {name: pins[name] for name in ('mmcv', 'openmim')} == dict(re.findall(r'(\w+)==(\S+)', first))
    assert f'CFLAGS="{setup_env.MMCV_CFLAGS}" MMCV_WITH_OPS=1 ' in first


def test_first_cell_asks_for_the_address(monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    first = cells(NOTEBOOKS[0], 'code')[0]
    with pytest.raises(ValueError, match='Set REPOSITORY in this cell to the address'):
        exec(first[: first.index('    !')])


@pytest.fixture
def folder(tmp_path):
    """Where a notebook runs (Path)."""
    path = tmp_path / 'run'
    path.mkdir()
    return path


@pytest.fixture(scope='module')
def kernel(tmp_path_factory):
    """A kernel for all notebooks, so that the packages are imported once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('PATH', os.path.dirname(sys.executable), prepend=os.pathsep)
        patch.setenv('PYTHONPATH', str(ROOT), prepend=os.pathsep)
        patch.setenv('OMP_NUM_THREADS', '1')
        for name in ('IPYTHONDIR', 'JUPYTER_DATA_DIR', 'JUPYTER_CONFIG_DIR', 'JUPYTER_RUNTIME_DIR'):
            patch.setenv(name, str(tmp_path_factory.mktemp(name)))
        manager = KernelManager(kernel_name='python3')
        manager.start_kernel()
        yield manager
        manager.shutdown_kernel(now=True)


@pytest.fixture
def run(folder, kernel):
    """A function that runs a notebook in a folder of its own and gives it back with its outputs."""

    def execute(name):
        notebook = nbformat.read(ROOT / 'demo' / f'{name}.ipynb', as_version=4)
        values = VALUES[name]
        parameters(notebook).source = '\n'.join(f'{key} = {value!r}' for key, value in values.items())
        for cell in notebook.cells:  # which would go on after a command that has failed
            if cell.cell_type == 'code' and cell.source.startswith('!'):
                cell.source += '\nassert _exit_code == 0'
            if cell.cell_type == 'code':  # so short a training has only boxes below the recipe's threshold
                cell.source = cell.source.replace("config.dump('detector.py')", NO_THRESHOLD)
                # Workers of a kernel take 5 s to end.
                cell.source = cell.source.replace('Runner.from_cfg(config)', 'Runner.from_cfg(alone(config))')
        start = START.format(folder=str(folder), torch=name != 'export_to_onnx')
        notebook.cells.insert(0, nbformat.v4.new_code_cell(start))
        nbclient.NotebookClient(notebook, timeout=900, km=kernel).execute()
        assert all(cell.get('execution_count', 1) for cell in notebook.cells)
        return notebook

    return execute


def printed(notebook, name):
    """What a cell wrote to standard output."""
    (cell,) = (cell for cell in notebook.cells if cell.id == name)
    return ''.join(output.text for output in cell.outputs if output.get('name') == 'stdout')


def pictures(notebook):
    """Names of the cells that show pictures, each as often as it shows one."""
    shown = ((cell.id, output) for cell in notebook.cells for output in cell.get('outputs', ()))
    return [name for name, output in shown if 'image/png' in output.get('data', {})]


@pytest.mark.slow
@needs_export
def test_export_to_onnx(run, folder):
    """The first in the kernel, which must not have imported PyTorch."""
    recipe = config_path('mobilemamba-t2_1xb64-4e_digits-64px')
    arch = dict(SMALL, depths=(1, 1, 1))
    backbone = dict(_delete_=True, type='MobileMamba', arch=arch)
    model = dict(backbone=backbone, head=dict(in_channels=arch['embed_dims'][-1]))
    (folder / 'small.py').write_text(f'_base_ = {recipe!r}\nmodel = {model!r}\n')
    notebook = run('export_to_onnx')
    names = [path.stem for path in sorted((folder / 'pictures').iterdir())]
    assert pictures(notebook) == ['show'] * len(names)
    assert printed(notebook, 'show').split() == [f'{name}:' for name in names]
    assert 'two' in names
    *lines, last = printed(notebook, 'network').splitlines()
    assert last == 'PyTorch was imported: False'
    found = load(folder / 'found/results.json')['pictures'][names.index('two')]['classes']
    assert lines == [f'{each["name"]:<6} {each["score"]:.3f}' for each in found]
    assert len(lines) == 5


@pytest.mark.slow
def test_look_inside(run, folder):
    notebook = run('look_inside')
    assert pictures(notebook) == ['new-field', 'stages', 'bands', 'scan', 'branches']
    assert printed(notebook, 'new-network').splitlines() == [
        '(1, 144, 12, 12)',
        '(1, 272, 6, 6)',
        '(1, 368, 3, 3)',
    ]
    assert (folder / 'work_dirs/look_inside/epoch_1.pth').is_file()


@pytest.mark.slow
def test_finetune_detector(run, folder):
    notebook = run('finetune_detector')
    assert pictures(notebook) == ['show-data'] * 3 + ['show']
    config = Config.fromfile(folder / 'detector.py')
    assert config.model.backbone.init_cfg.checkpoint == 'work_dirs/pretrain/epoch_1.pth'
    predictions = load(folder / 'predictions.pkl')
    assert len(predictions) == FEW['VAL_SCENES']
    assert (folder / 'work_dirs/finetune_detector/epoch_1.pth').is_file()
    (found,) = (each['pred_instances'] for each in predictions if each['img_path'].endswith('/000001.png'))
    scores = [score for score in found['scores'].tolist() if score >= VALUES['finetune_detector']['SCORE']]
    assert scores
    assert re.findall(r' (\d\.\d\d)  \[', printed(notebook, 'infer')) == [f'{score:.2f}' for score in scores]


@pytest.mark.slow
def test_finetune_segmentor(run, folder):
    notebook = run('finetune_segmentor')
    assert pictures(notebook) == ['show-data', 'show']
    assert 'labels: [0 1' in printed(notebook, 'show-data')
    config = Config.fromfile(folder / 'segmentor.py')
    assert config.model.backbone.init_cfg.checkpoint == 'work_dirs/pretrain/epoch_1.pth'
    maps = [each['pred_sem_seg']['data'][0].numpy() for each in load(folder / 'predictions.pkl')]
    assert len(maps) == FEW['VAL_SCENES']
    labels = sorted((folder / 'data/digits_scenes/ade/annotations/validation').iterdir())
    truth = np.stack([np.asarray(Image.open(path)) for path in labels]).astype(int) - 1
    accuracy = (np.stack(maps) == truth)[truth >= 0].mean()
    assert float(re.search(r'aAcc: (\S+)', printed(notebook, 'test'))[1]) == pytest.approx(
        100 * accuracy, abs=0.0051
    )
    counts = [int(count) for count in re.findall(r'(\d+) pixels', printed(notebook, 'infer'))]
    assert counts == np.unique(maps[0], return_counts=True)[1].tolist()
