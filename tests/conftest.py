"""Golden checkpoints of the authors' layout, rebuilt from names and shapes."""

import gc
import importlib.util
import json
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from .quick_mmengine import leave_out_formatting

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / 'tests' / 'data' / 'golden'


def load_script(path):
    """Import a script of the repository by its path; it can import the scripts in its folder, as when it is
    run.

    If the script exits because it needs a newer torch, the tests of the calling module are skipped.
    """
    path = ROOT / path
    if sys.path[0] != str(path.parent):
        sys.path.insert(0, str(path.parent))  # ONNX Runtime adds a folder with a `benchmark`, too
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SystemExit as error:
        if 'exports need torch' not in str(error):
            raise
        pytest.skip(str(error), allow_module_level=True)
    return module


detweights = load_script('tests/data/golden/detweights.py')


def authors_checkpoint(arch):
    """A fixed checkpoint of an arch with the authors' names; B1, B2 and B4 share one."""
    name = 'b1' if arch in ('b2', 'b4') else arch
    shapes = json.loads((GOLDEN / f'keys_{name}.json').read_text())
    return {key: torch.from_numpy(detweights.tensor_for(key, shape)) for key, shape in shapes.items()}


def image_for(shape):
    """The fixed smooth-plus-noise image batch of ``shape`` (N, 3, H, W)."""
    return torch.from_numpy(detweights.image_for(shape))


def noise_for(shape, salt):
    """Fixed standard normal noise of ``shape``."""
    return torch.from_numpy(detweights.noise_for(shape, salt))


def golden(name):
    """Outputs of the authors' network (dict of arrays)."""
    return np.load(GOLDEN / f'golden_{name}.npz')


def relative_error(found, expected):
    """Largest absolute difference over the largest absolute value."""
    found, expected = (torch.as_tensor(value, dtype=torch.float64) for value in (found, expected))
    assert found.shape == expected.shape
    return ((found - expected).abs().max() / expected.abs().max()).item()


def pytest_collection_finish():
    """The objects of the packages, which are imported by now, are no garbage; looking at them takes long."""
    gc.freeze()


@pytest.fixture(scope='session', autouse=True)
def _quick_mmengine():
    leave_out_formatting()


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _same_handlers():
    """A handler of a tool that stays can keep a pool of processes, as in mmdet's VOCMetric, from ending."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.fixture(autouse=True)
def _forget_visualizers():
    """mmengine reuses visualizers by name, with their folder, which pytest removes after the test."""
    yield
    module = sys.modules.get('mmengine.visualization')
    kinds = [module.Visualizer] if module else []
    while kinds:
        kind = kinds.pop()
        kind._instance_dict.clear()
        kinds += kind.__subclasses__()


@pytest.fixture(scope='session')
def weights_folder(tmp_path_factory):
    """A folder with checkpoints of T2 and B1 in the authors' layout and under the authors' file names."""
    folder = tmp_path_factory.mktemp('weights')
    for arch in ('t2', 'b1'):
        torch.save(authors_checkpoint(arch), folder / f'mobilemamba_{arch}.pth')
    return folder


@pytest.fixture
def authors_weights(weights_folder, monkeypatch):
    """The same folder, set as the one in which names such as ``mobilemamba://t2`` are looked up."""
    monkeypatch.setenv('MMMOBILEMAMBA_WEIGHTS', str(weights_folder))
    return weights_folder
