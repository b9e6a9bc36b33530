"""mmdet's SSD head with a fix for prediction."""

from mmdet.models.dense_heads import SSDHead
from mmengine.registry import MODELS


@MODELS.register_module()
class SSDLiteHead(SSDHead):
    """mmdet's SSDHead with a fix for prediction.

    When decoding predictions, mmdet 3.3.0 checks ``loss_cls`` of every dense head for custom activations.
    SSDHead computes its classification loss without such a module, so prediction fails with
    ``AttributeError: 'SSDHead' object has no attribute 'loss_cls'``. Arguments, parameters and names
    are those of :class:`mmdet.models.dense_heads.SSDHead` (https://arxiv.org/abs/1512.02325).
    """

    loss_cls = None
