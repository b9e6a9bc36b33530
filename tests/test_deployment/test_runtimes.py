"""Exported files in the format of ONNX Runtime Mobile; ``make test-deploy``."""

import subprocess
import sys

import numpy as np
import pytest

onnx = pytest.importorskip('onnx')
onnxruntime = pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')
pytest.importorskip('mmpretrain')

from ..conftest import load_script  # noqa: E402
from .networks import checkpoint_of, config_of  # noqa: E402

pytestmark = pytest.mark.deploy
tool = load_script('tools/deployment/export.py')


@pytest.fixture(scope='module', params=['fixed', 'dynamic'])
def exported(request, tmp_path_factory):
    """An exported classifier, an image, and its logits in ONNX Runtime."""
    folder = tmp_path_factory.mktemp(request.param)
    config, out = folder / 'config.py', folder / 'classifier.onnx'
    config_of('classifier').dump(config)
    options = ['--size', '96'] + (['--dynamic'] if request.param == 'dynamic' else [])
    tool.main([str(config), str(checkpoint_of('classifier', folder)), str(out), *options])
    image = np.random.default_rng(0).standard_normal((2, 3, 96, 96), dtype=np.float32)
    session = onnxruntime.InferenceSession(out, providers=['CPUExecutionProvider'])
    return out, image, session.run(['logits'], {'image': image})[0]


def difference(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


def test_format_of_onnx_runtime_mobile(exported):
    """The command in the docs, and its output file in ONNX Runtime."""
    out, image, expected = exported
    command = [sys.executable, '-m', 'onnxruntime.tools.convert_onnx_models_to_ort', str(out)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    converted = out.with_suffix('.ort')
    assert converted.read_bytes()[4:8] == b'ORTM'
    session = onnxruntime.InferenceSession(converted, providers=['CPUExecutionProvider'])
    assert difference(session.run(['logits'], {'image': image})[0], expected) < 1e-5


def test_openvino(exported):
    openvino = pytest.importorskip('openvino', reason='needs: python -m pip install openvino')
    out, image, expected = exported
    network = openvino.Core().compile_model(out, 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})
    assert difference(network({'image': image})['logits'], expected) < 1e-4
