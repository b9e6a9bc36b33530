"""Conversion of our models by mmdeploy, at its default opset; ``make test-deploy``.

Since torch 2.9, its call of ``torch.onnx.export`` must select the exporter explicitly: docs/deployment.md.
"""

from functools import partial

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from ..conftest import ROOT, image_for, relative_error
from ..helpers import randomise

pytestmark = [pytest.mark.deploy, pytest.mark.filterwarnings('ignore')]
MODELS_AND_OUTPUTS = {
    'mmpretrain': ('mobilemamba/mobilemamba-t2_1xb64-4e_digits-64px.py', 'Classification', ['output'], {}),
    'mmdet': (
        'retinanet/retinanet_mobilemamba-t2_fpn_2e_digits.py',
        'ObjectDetection',
        ['dets', 'labels'],
        dict(
            model_type='end2end',
            post_processing=dict(
                score_threshold=0.05,
                confidence_threshold=0.005,
                iou_threshold=0.5,
                max_output_boxes_per_class=200,
                pre_top_k=5000,
                keep_top_k=100,
                background_label_id=-1,
            ),
        ),
    ),
}


def expected_of(model, image, codebase):
    """Expected class scores, or boxes with scores of the best objects."""
    with torch.no_grad():
        if codebase == 'mmpretrain':
            return model(image, mode='tensor').softmax(1)
        from mmdet.structures import DetDataSample

        size = tuple(image.shape[2:])
        shapes = dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape'), size)
        sample = DetDataSample(metainfo=dict(shapes, scale_factor=(1.0, 1.0)))
        found = model.predict(image, [sample], rescale=False)[0].pred_instances
        return torch.cat([found.bboxes, found.scores[:, None]], dim=1)[:10]


@pytest.mark.parametrize('codebase', MODELS_AND_OUTPUTS)
def test_one_file_for_all_sizes(codebase, tmp_path, monkeypatch):
    pytest.importorskip('mmdeploy')
    from mmdeploy.apis import torch2onnx

    onnx, onnxruntime = pytest.importorskip('onnx'), pytest.importorskip('onnxruntime')
    monkeypatch.setattr(torch.onnx, 'export', partial(torch.onnx.export, dynamo=False))
    name, task, outputs, extra = MODELS_AND_OUTPUTS[codebase]
    config = Config.fromfile(ROOT / 'configs' / name)
    config.work_dir = str(tmp_path)
    init_default_scope(codebase)
    model = randomise(MODELS.build(config.model))
    torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / 'model.pth')
    cv2.imwrite(str(tmp_path / 'image.png'), np.zeros((224, 224, 3), np.uint8))
    free = {'input': {0: 'batch', 2: 'height', 3: 'width'}, **{name: {0: 'batch'} for name in outputs}}
    onnx_config = dict(
        type='onnx',
        export_params=True,
        keep_initializers_as_inputs=False,
        opset_version=11,
        save_file='model.onnx',
        input_names=['input'],
        output_names=outputs,
        input_shape=None,
        optimize=True,
        dynamic_axes=free,
    )
    deploy_config = dict(
        onnx_config=onnx_config,
        codebase_config=dict(type=codebase, task=task, **extra),
        backend_config=dict(type='onnxruntime'),
    )
    arguments = (str(tmp_path / 'image.png'), str(tmp_path), 'model.onnx', Config(deploy_config), config)
    torch2onnx(*arguments, str(tmp_path / 'model.pth'), device='cpu')

    path = str(tmp_path / 'model.onnx')
    nodes = onnx.load(path).graph.node
    assert len(nodes) < 4000 and sum(node.op_type == 'Loop' for node in nodes) == 5
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    for size in ((96, 128), (200, 150)):
        image = image_for((1, 3, *size))
        expected = expected_of(model, image, codebase)
        found = torch.from_numpy(session.run(None, {'input': image.numpy()})[0])
        if codebase == 'mmdet':  # mmdeploy keeps boxes of zero area, mmdet removes them
            found = found[0][(found[0, :, 2:4] > found[0, :, :2]).all(1)][: len(expected)]
        assert relative_error(found, expected) < 1e-4
