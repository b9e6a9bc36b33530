"""mmdet's SSD head, able to predict."""

from mmdet.models.dense_heads import SSDHead
from mmengine.registry import MODELS


@MODELS.register_module()
class SSDLiteHead(SSDHead):
    """mmdet's SSDHead, able to predict.

    To decode predictions, mmdet 3.3.0 asks every dense head whether its ``loss_cls`` has activations
    of its own. SSDHead computes its classification loss without such a module, and so fails with
    ``AttributeError: 'SSDHead' object has no attribute 'loss_cls'``. Arguments, parameters and names
    are those of :class:`mmdet.models.dense_heads.SSDHead` (https://arxiv.org/abs/1512.02325).
    """

    loss_cls = None
