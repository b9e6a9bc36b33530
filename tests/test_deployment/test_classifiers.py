"""mmpretrain's heads: results equal to those of ``predict``, or an error that names the head."""

import pytest
import torch

pytest.importorskip('mmpretrain')

from mmengine.registry import MODELS, init_default_scope

from mmmobilemamba.deployment.build import DeploymentError, make_graph, task_of

from ..conftest import noise_for
from ..helpers import ODD, randomise
from .networks import config_of

WIDTH = ODD['embed_dims'][-1]


def classifier(**head):
    """A classifier with another head."""
    config = config_of('classifier').model
    init_default_scope('mmpretrain')
    config.head = {'num_classes': 10, 'in_channels': WIDTH, **head}
    torch.manual_seed(0)
    return randomise(MODELS.build(config))


@pytest.mark.parametrize(
    'head',
    [
        dict(type='LinearClsHead'),
        dict(type='StackedLinearClsHead', mid_channels=[20]),
        dict(type='ArcFaceClsHead'),
        dict(type='ArcFaceClsHead', num_subcenters=3),
        dict(type='LeViTClsHead', distillation=False),
    ],
    ids=str,
)
@torch.no_grad()
def test_heads(head):
    model, image = classifier(**head), noise_for((2, 3, 64, 64), 0)
    assert task_of(model) == 'classification'
    _, scores, labels = make_graph(model, 'classification', topk=10)(image)
    for found, label, sample in zip(scores, labels, model.predict(image)):
        expected, order = sample.pred_score.sort(descending=True)
        torch.testing.assert_close(found, expected)
        assert torch.equal(label, order)


@pytest.mark.parametrize(
    ('head', 'message'),
    [
        (
            dict(type='MultiLabelLinearClsHead'),
            'cannot be exported: MultiLabelLinearClsHead may find several classes',
        ),
        (
            dict(type='CSRAClsHead', num_heads=1, lam=0.1),
            'with a CSRAClsHead is none of what can be exported',
        ),
        (
            dict(type='ConformerHead', in_channels=[WIDTH, WIDTH]),
            'cannot be exported: ConformerHead has a predict of its own',
        ),
    ],
    ids=str,
)
def test_heads_that_are_refused(head, message):
    model = classifier(**head)
    with pytest.raises(DeploymentError, match=f'^ImageClassifier {message}'):
        make_graph(model, task_of(model))


def test_several_tasks_are_refused():
    tasks = dict(
        first=dict(type='LinearClsHead', num_classes=3), second=dict(type='LinearClsHead', num_classes=2)
    )
    config = config_of('classifier').model
    init_default_scope('mmpretrain')
    config.head = dict(type='MultiTaskHead', task_heads=tasks, in_channels=WIDTH)
    with pytest.raises(DeploymentError, match='ImageClassifier with a MultiTaskHead is none of what can be'):
        task_of(MODELS.build(config))
