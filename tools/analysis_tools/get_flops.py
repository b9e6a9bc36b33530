"""Count the parameters and FLOPs of a config part by part, the selective scan included.

    python tools/analysis_tools/get_flops.py CONFIG [--shape HEIGHT WIDTH | --picture HEIGHT WIDTH]
    python tools/analysis_tools/get_flops.py b1 --shape 256 256
    mim run mmmobilemamba get_flops CONFIG

CONFIG is a config of mmpretrain, mmdet or mmseg, or an arch for the backbone alone. The model runs once on
a blank image, and mmengine's FlopAnalyzer counts the operations it supports: one multiply-add is one FLOP,
batch norm counts 2 per element, layer norm 5, other element-wise operations 0. The following operations,
which the get_flops.py of mmdet, mmseg and mmpretrain miss, are added:

- the scan: 9 L D + L D for L pixels and D channels, counting both directions (state size 1;
  https://github.com/state-spaces/mamba/issues/110);
- the Haar transforms, implemented as sums and differences, but counted as the convolutions of the paper
  (2 x 2, stride 2): 4 per value;
- fused attention, as two matrix products.

For classifiers, the authors report the total without the convolutions on the wavelet sub-bands, whose padding
their counter does not support; for segmentors, also without the scan. Scan, Haar transforms and wavelet
convolutions are listed below the total. For detectors, the authors omit the same parts, and average over the
first 100 validation images of COCO, each at the size from the test pipeline. This tool uses one image of the
largest of these sizes, or of the size that the pipeline produces from ``--picture``.
"""

import argparse
import math
import sys
from collections import Counter
from functools import partial
from inspect import signature

import torch
from mmengine.analysis import FlopAnalyzer
from mmengine.config import DictAction
from mmengine.model import BaseModel
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import BaseDataElement
from torch import nn

from mmmobilemamba import MobileMamba
from mmmobilemamba.deployment import pipeline
from mmmobilemamba.deployment.errors import DeploymentError
from mmmobilemamba.models.arch import ARCHS
from mmmobilemamba.models.layers import SS2D, ChannelScale, FoldedWTEMamba, WTEMamba
from mmmobilemamba.utils import codebase_of, config_argument, read_config


class RawForward(nn.Module):
    """Wraps a model so that it maps images to the raw outputs of its heads, without decoding.

    Args:
        model (nn.Module): An OpenMMLab model, called in tensor mode, or a network whose only input is images.
        data_samples (list, optional): Metadata of the images, for an OpenMMLab model.
    """

    def __init__(self, model, data_samples):
        super().__init__()
        self.model = model
        self.data_samples = data_samples

    def forward(self, images):
        """(N, 3, H, W) -> tensors, possibly in nested containers."""
        if not isinstance(self.model, BaseModel):
            return self.model(images)
        head = getattr(self.model, 'decode_head', None)
        if head is not None and 'batch_data_samples' in signature(head.forward).parameters:
            # MaskFormer and Mask2Former: mmseg's tensor mode calls their heads without it, and fails.
            return head(self.model.extract_feat(images), self.data_samples)
        return self.model(images, self.data_samples, mode='tensor')


def count_scan(counter, name, module, inputs, _):
    """Forward hook of an SS2D with input (N, C, H, W): adds its scan to a Counter."""
    batch, _, height, width = map(int, inputs[0].shape)
    counter[name] += 10 * batch * height * width * int(module.D.numel())


def count_haar(counter, name, _, inputs, __):
    """Forward hook of a WTEMamba with input (N, C, H, W): adds its two Haar transforms."""
    batch, channels, height, width = map(int, inputs[0].shape)
    counter[name] += 2 * 4 * batch * channels * (height + height % 2) * (width + width % 2)


def count_channel_scale(counter, name, _, inputs, __):
    """Forward hook of a ChannelScale with input (N, C, H, W): adds one multiplication per element."""
    counter[name] += math.prod(map(int, inputs[0].shape))


def attention_flops(inputs, outputs):
    """FLOPs of ``scaled_dot_product_attention`` in a trace: its two matrix products."""
    query, key, value = (graph_input.type().sizes() for graph_input in inputs[:3])
    return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def count_flops(model, images, data_samples=None):
    """Run a model once and count its FLOPs.

    Args:
        model (nn.Module): Model of mmpretrain, mmdet or mmseg, or a network whose only input is images.
        images (Tensor): Output of its data preprocessor, (N, in_channels, H, W).
        data_samples (list, optional): Metadata of the images; required by two-stage detectors.

    Returns:
        tuple[Counter, dict[str, int]]: FLOPs by module name, with '' for the whole model; and the shares of
        ``'scan'``, ``'Haar transforms'`` and ``'wavelet convolutions'``.
    """
    scans, transforms, scales, hooks = Counter(), Counter(), Counter(), []
    for name, module in model.named_modules():
        if isinstance(module, SS2D):
            hooks.append(module.register_forward_hook(partial(count_scan, scans, name)))
        if isinstance(module, (WTEMamba, FoldedWTEMamba)):
            hooks.append(module.register_forward_hook(partial(count_haar, transforms, name)))
        if isinstance(module, ChannelScale):
            hooks.append(module.register_forward_hook(partial(count_channel_scale, scales, name)))
    analyzer = FlopAnalyzer(RawForward(model.eval(), data_samples), images)
    analyzer.set_op_handle('aten::scaled_dot_product_attention', attention_flops)
    analyzer.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings('none')
    with torch.no_grad():
        counted = analyzer.by_module()
    for hook in hooks:
        hook.remove()

    # Some of the analyzer's counts, such as those of einsum, are whole numbers as floats.
    flops = Counter({name.partition('.')[2]: int(count) for name, count in counted.items() if name})
    # In a trace, the bias of the step sizes is an extra row of their matrix: L D, counted nowhere else.
    biases = {name: -count // 10 for name, count in scans.items()}
    for name, more in [item for counts in (scans, transforms, scales, biases) for item in counts.items()]:
        path = name.split('.')
        for length in range(len(path) + 1):
            flops['.'.join(path[:length])] += more
    wavelet = sum(count for name, count in flops.items() if name.endswith('.wavelet_conv'))
    added = {'scan': sum(scans.values()), 'Haar transforms': sum(transforms.values())}
    return flops, {**added, 'wavelet convolutions': wavelet}


def default_shape(config, picture=None):
    """Height and width of a segmentor's crops, or the largest size that the test pipeline produces.

    Args:
        config (Config): Config of mmpretrain, mmdet or mmseg.
        picture (tuple[int, int], optional): Height and width of a picture; returns its size after the
            pipeline.

    Raises:
        DeploymentError: If the config specifies no size.
    """
    crop = (config.model.get('data_preprocessor') or {}).get('size')
    if picture is None and crop is not None:
        return tuple(crop)
    steps = pipeline.resize_steps(pipeline.read_test_pipeline(config))
    if picture is not None:
        return pipeline.resize(picture, steps)
    sizes = pipeline.largest_sizes(steps)
    if not sizes:
        raise DeploymentError('The test pipeline makes no largest size.')
    return sizes[0]


def build(config, shape):
    """Build the model of a config, without its weights, and a blank input image.

    Args:
        config (Config): Config of mmpretrain, mmdet or mmseg.
        shape (tuple[int, int]): Height and width of the image, before the model's own padding.

    Returns:
        tuple[BaseModel, Tensor, list]: Model, images (1, in_channels, H, W), their metadata.
    """
    init_default_scope(codebase_of(config) or 'mmengine')
    preprocessor = dict(config.model.get('data_preprocessor') or config.get('data_preprocessor') or {})
    preprocessor.update(mean=None, std=None)  # may be for other channels, and do not affect FLOPs
    model = MODELS.build({**config.model, 'data_preprocessor': preprocessor})
    meta = BaseDataElement(metainfo=dict(img_shape=shape, ori_shape=shape, scale_factor=(1.0, 1.0)))
    channels = (config.model.get('backbone') or {}).get('in_channels', 3)
    data = model.data_preprocessor(dict(inputs=[torch.zeros(channels, *shape)], data_samples=[meta]))
    return model, data['inputs'], data['data_samples']


def table(model, flops, portions):
    """Parameters and FLOPs by part, as lines of text.

    Operations outside of submodules, such as the resizing in mmseg's heads, are listed as ``rest``.
    """

    def parameters(module):
        return f'{sum(parameter.numel() for parameter in module.parameters()):,}'

    rows = [('part', 'parameters', 'FLOPs')]
    parts = [(name, part) for name, part in model.named_children() if name != 'data_preprocessor']
    rows += [(name, parameters(part), f'{flops[name]:,}') for name, part in parts]
    rest = flops[''] - sum(flops[name] for name, _ in parts)
    rows += [('rest', '0', f'{rest:,}')] if rest else []
    rows.append(('total', parameters(model), f'{flops[""]:,}'))
    rows += [(f'  {name}', '', f'{count:,}') for name, count in portions.items()]
    return [f'{name:<24}{number:>14}{count:>20}' for name, number, count in rows]


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        'config',
        type=lambda text: text if text in ARCHS else config_argument(text),
        help='config file of mmpretrain, mmdet or mmseg, or an arch',
    )
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument(
        '--shape', type=int, nargs=2, metavar=('HEIGHT', 'WIDTH'), help="default: the config's"
    )
    sizes.add_argument(
        '--picture',
        type=int,
        nargs=2,
        metavar=('HEIGHT', 'WIDTH'),
        help='size of a picture, to be resized by the test pipeline',
    )
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='changes to the config')
    args = parser.parse_args(argv)
    if args.config in ARCHS:
        if args.shape is None:
            parser.error('a bare backbone has no size of its own: give --shape HEIGHT WIDTH')
        shape = tuple(args.shape)
        model, images, data_samples = MobileMamba(args.config), torch.zeros(1, 3, *shape), None
    else:
        config = read_config(args.config, args.cfg_options)
        try:
            shape = tuple(args.shape or default_shape(config, args.picture))
        except DeploymentError as error:
            sys.exit(f'{args.config}: {error} Give --shape HEIGHT WIDTH.')
        model, images, data_samples = build(config, shape)
    height, width = images.shape[2:]
    try:
        flops, portions = count_flops(model, images, data_samples)
    except RuntimeError as error:  # such as a neck that upsamples by 2 after maps with an odd side
        sys.exit(
            f'{args.config}: the model cannot take {height} x {width} pixels: {error}. Its neck may want '
            f'multiples of its largest stride, which is 64 for the whole backbone: give --shape HEIGHT WIDTH.'
        )
    print(f'{args.config}: {shape[0]} x {shape[1]} pixels, {height} x {width} for the network')
    print('\n'.join(table(model, flops, portions)))


if __name__ == '__main__':
    main()
