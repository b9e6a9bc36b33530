"""Checks that a model of OpenMMLab can be exported.

The graphs reimplement certain methods of OpenMMLab. Classes that override one of these methods, and settings
that the graphs do not implement, are rejected with a message that names them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from .dense_heads import base_dense_head, gfl_head, is_mmdets, paa_head, rpn_head, rule_of, yolox_head
from .errors import DeploymentError
from .suppress import read_suppression

# Operators of mmcv without an ONNX equivalent.
NO_OPERATOR = ('DeformConv2d', 'ModulatedDeformConv2d', 'MaskedConv2d', 'CARAFE', 'PSAMask')


def check_methods(part: nn.Module, codebase: str, methods: Mapping[str, str | Sequence[str]]) -> None:
    """Check that a model or head does not override the methods that the graphs reimplement.

    Args:
        part (nn.Module): The model, or a head.
        codebase (str): The package that defines the methods, such as ``'mmdet'``.
        methods (dict[str, str | Sequence[str]]): For each method, the class or classes allowed to define it.

    Raises:
        DeploymentError: If a method is defined by another class.
    """
    for name, owners in methods.items():
        owners = [owners] if isinstance(owners, str) else owners
        method = getattr(type(part), name, None)
        found = '.'.join(
            (getattr(method, '__module__', '').split('.')[0], getattr(method, '__qualname__', ''))
        )
        if found not in [f'{codebase}.{owner}.{name}' for owner in owners]:
            raise DeploymentError(
                f'{type(part).__name__} has a {name} of its own, and the file would do what that of '
                f'{" or ".join(owners)} does.'
            )


def check_classifier(model: nn.Module) -> None:
    """Check that :class:`~.graphs.ClassifierGraph` reproduces a classifier.

    Raises:
        DeploymentError: If it does not.
    """
    if any(kind.__name__ == 'MultiLabelClsHead' for kind in type(model.head).__mro__):
        raise DeploymentError(
            f'{type(model.head).__name__} may find several classes in an image, and the file has one.'
        )
    check_methods(model, 'mmpretrain', dict(predict='ImageClassifier', extract_feat='ImageClassifier'))
    check_methods(model.head, 'mmpretrain', dict(predict='ClsHead', _get_predictions='ClsHead'))


def check_segmentor(model: nn.Module) -> None:
    """Check that :class:`~.graphs.SegmentorGraph` reproduces a segmentor.

    Raises:
        DeploymentError: If it does not.
    """
    whole = ('predict', 'inference', 'whole_inference', 'slide_inference')
    check_methods(model, 'mmseg', dict.fromkeys(whole, 'EncoderDecoder'))
    check_methods(model, 'mmseg', dict(postprocess_result='BaseSegmentor'))
    cascade = isinstance(model.decode_head, nn.ModuleList)
    owner = 'CascadeEncoderDecoder' if cascade else 'EncoderDecoder'
    check_methods(model, 'mmseg', dict(encode_decode=owner, extract_feat='EncoderDecoder'))
    head = model.decode_head[-1] if cascade else model.decode_head
    owners = 'BaseCascadeDecodeHead' if cascade else ('BaseDecodeHead', 'DAHead', 'EncHead')
    check_methods(head, 'mmseg', dict(predict=owners, predict_by_feat='BaseDecodeHead'))
    mode = model.test_cfg.get('mode', 'whole')
    if mode not in ('whole', 'slide'):
        raise DeploymentError(f"test_cfg.mode is {mode!r}; it must be 'whole' or 'slide'.")
    if head.out_channels == 1 and not 0 < head.threshold < 1:
        raise DeploymentError(f'decode_head.threshold is {head.threshold}; it must be between 0 and 1.')


def check_detector(model: nn.Module) -> None:
    """Check that a graph of :mod:`.detectors` reproduces a detector.

    Raises:
        DeploymentError: If it does not.
    """
    if hasattr(model, 'roi_head'):
        check_two_stages(model)
        return
    check_methods(model, 'mmdet', dict(predict='SingleStageDetector', extract_feat='SingleStageDetector'))
    rule, config = rule_of(model.bbox_head), model.bbox_head.test_cfg
    if rule is rpn_head:
        raise DeploymentError(f'{type(model).__name__} gives proposals, which have no classes.')
    read_suppression(config)
    if rule in (base_dense_head, gfl_head) and config.get('nms_pre', -1) == 0:
        raise DeploymentError(
            'test_cfg.nms_pre is 0, with which mmdet finds nothing: give a number of boxes.'
        )
    if rule is not yolox_head:
        check_limit(config, 'test_cfg')
        if config.get('min_bbox_size', -1) > 0:
            raise DeploymentError(
                f'test_cfg.min_bbox_size is {config.min_bbox_size}, in pixels of the picture before it is '
                f'resized, and the file has those of its input alone: set it to 0, and leave out small boxes '
                f'where the file is used.'
            )
    if rule in (gfl_head, paa_head, yolox_head) and 'score_thr' not in config:
        raise DeploymentError('test_cfg has no score_thr.')


def check_two_stages(model: nn.Module) -> None:
    """Check that :class:`~.detectors.TwoStageDetector` reproduces a two-stage detector.

    Raises:
        DeploymentError: If it does not.
    """
    roi_head = model.roi_head
    if not hasattr(model, 'rpn_head') or model.rpn_head is None:
        raise DeploymentError(f'{type(model).__name__} has no rpn_head, and the file needs its proposals.')
    check_methods(model, 'mmdet', dict(predict='TwoStageDetector', extract_feat='TwoStageDetector'))
    if rule_of(model.rpn_head) is not rpn_head:
        raise DeploymentError(f'rpn_head is a {type(model.rpn_head).__name__}; the file has an RPNHead.')
    methods = dict(predict='BaseRoIHead', predict_bbox='StandardRoIHead', _bbox_forward='StandardRoIHead')
    check_methods(roi_head, 'mmdet', methods)
    if getattr(roi_head, 'with_shared_head', False):
        raise DeploymentError(f'{type(roi_head).__name__} has a shared_head, which has no form for a file.')
    predict = dict(predict_by_feat='BBoxHead', _predict_by_feat_single='BBoxHead')
    check_methods(roi_head.bbox_head, 'mmdet', predict)
    check_bbox_head(roi_head.bbox_head)
    extractors = [roi_head.bbox_roi_extractor]
    if roi_head.with_mask:
        check_methods(
            roi_head, 'mmdet', dict(predict_mask='StandardRoIHead', _mask_forward='StandardRoIHead')
        )
        methods = dict.fromkeys(('predict_by_feat', '_predict_by_feat_single'), 'FCNMaskHead')
        check_methods(roi_head.mask_head, 'mmdet', methods)
        extractors += [] if roi_head.share_roi_extractor else [roi_head.mask_roi_extractor]
        threshold = roi_head.test_cfg.mask_thr_binary
        if threshold != 0.5:
            raise DeploymentError(
                f'test_cfg.rcnn.mask_thr_binary is {threshold}, and what reads the file cuts masks at 0.5: '
                f'set it to that.'
            )
    for extractor in extractors:
        check_extractor(extractor)
    check_limit(model.rpn_head.test_cfg, 'test_cfg.rpn')
    read_suppression(model.rpn_head.test_cfg, 'test_cfg.rpn')
    read_suppression(roi_head.test_cfg, 'test_cfg.rcnn')


def check_bbox_head(head: nn.Module) -> None:
    """Check that the box head of the second stage uses a supported encoding of boxes and scores.

    Raises:
        DeploymentError: If it does not.
    """
    if not (head.with_cls and head.with_reg) or head.bbox_coder.use_box_type:
        raise DeploymentError(f'{type(head).__name__} gives no plain boxes with scores.')
    if not is_mmdets(head.bbox_coder, 'DeltaXYWHBBoxCoder'):
        raise DeploymentError(f'its {type(head.bbox_coder).__name__} has no form for a file.')
    if head.custom_cls_channels:
        raise DeploymentError(f'the scores of its {type(head.loss_cls).__name__} have no form for a file.')


def check_extractor(extractor: nn.Module) -> None:
    """Check that :func:`~.detectors.extract` reproduces an RoI extractor.

    Raises:
        DeploymentError: If it does not.
    """
    check_methods(extractor, 'mmdet', dict(forward='SingleRoIExtractor', map_roi_levels='SingleRoIExtractor'))
    layer = extractor.roi_layers[0]
    if type(layer).__name__ != 'RoIAlign' or layer.pool_mode != 'avg':
        what = f'{type(layer).__name__} by {getattr(layer, "pool_mode", "maximum")}'
        raise DeploymentError(f'its roi_layer is {what}; the file has RoIAlign by avg.')


def check_limit(config: dict, name: str) -> None:
    """Check that a ``test_cfg`` limits the number of boxes with ``max_per_img``.

    Args:
        config (dict): The ``test_cfg``.
        name (str): Its name in the config, for the message.

    Raises:
        DeploymentError: If it does not.
    """
    limit = config.get('max_per_img')
    if limit is None or limit <= 0:
        raise DeploymentError(
            f'{name}.max_per_img is {limit}: set how many boxes an image may have, as the file has so many.'
        )


def check_operators(model: nn.Module) -> None:
    """Check that ONNX has equivalents of the mmcv operators in a model.

    Raises:
        DeploymentError: If one has none.
    """
    for name, module in model.named_modules():
        for kind in type(module).__mro__:
            if kind.__module__.startswith('mmcv.ops.') and kind.__name__ in NO_OPERATOR:
                raise DeploymentError(f'{name} is a {kind.__name__} of mmcv, which ONNX has no operator for.')


CHECKS = dict(classification=check_classifier, detection=check_detector, segmentation=check_segmentor)
