"""Count the parameters and FLOPs of a config part by part, the selective scan included.

    python tools/analysis_tools/get_flops.py CONFIG [--shape HEIGHT WIDTH | --picture HEIGHT WIDTH]
    python tools/analysis_tools/get_flops.py b1 --shape 256 256
    mim run mmmobilemamba get_flops CONFIG

CONFIG is of mmpretrain, mmdet or mmseg; the name of an arch stands for the bare backbone. The model runs
once, on one blank image, and mmengine's FlopAnalyzer counts what it knows: one
multiply-add is one FLOP, batch norm is 2 an element, layer norm 5, other element-wise arithmetic 0.
Three things it cannot see, here or in the get_flops.py of mmdet, mmseg and mmpretrain, are added:

- the scan: 9 L D + L D for L pixels and D channels, those of both directions (state size 1;
  https://github.com/state-spaces/mamba/issues/110);
- the Haar transforms, which are sums and differences here, as the convolutions that they are on
  paper (2 x 2, stride 2): 4 a value;
- attention in one call of PyTorch, as its two matrix products.

What the authors print for their classifiers is the total without the convolutions on the wavelet
sub-bands, whose padding their counter did not know, and for segmentors without the scan as well. All three
are listed below the total. Their figures of detectors leave out the same, but are means over the first 100
validation images of COCO, each at the size that the test pipeline gives it; here it is one image, of the
largest of these sizes, or of that which ``--picture`` gets.
"""

import argparse
import math
import sys
from collections import Counter
from functools import partial

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
    """A model that takes nothing but images and gives what its heads give, without decoding.

    Args:
        model (nn.Module): One of OpenMMLab, which has a mode for that, or a network that takes images alone.
        data_samples (list, optional): Metadata of the images, for the former.
    """

    def __init__(self, model, data_samples):
        super().__init__()
        self.model = model
        self.data_samples = data_samples

    def forward(self, images):
        """(N, 3, H, W) -> tensors, in whatever containers."""
        if isinstance(self.model, BaseModel):
            return self.model(images, self.data_samples, mode='tensor')
        return self.model(images)


def count_scan(counter, name, module, inputs, _):
    """Forward hook of an SS2D, whose input is (N, C, H, W): adds its scan to a Counter."""
    batch, _, height, width = map(int, inputs[0].shape)
    counter[name] += 10 * batch * height * width * int(module.D.numel())


def count_haar(counter, name, _, inputs, __):
    """Forward hook of a WTEMamba, whose input is (N, C, H, W): adds both of its Haar transforms."""
    batch, channels, height, width = map(int, inputs[0].shape)
    counter[name] += 2 * 4 * batch * channels * (height + height % 2) * (width + width % 2)


def count_channel_scale(counter, name, _, inputs, __):
    """Forward hook of a ChannelScale, whose input is (N, C, H, W): adds a multiplication an element."""
    counter[name] += math.prod(map(int, inputs[0].shape))


def attention_flops(inputs, outputs):
    """Of ``scaled_dot_product_attention`` in a trace: of both products with a map of query by key."""
    query, key, value = (graph_input.type().sizes() for graph_input in inputs[:3])
    return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def count_flops(model, images, data_samples=None):
    """Run a model once and count.

    Args:
        model (nn.Module): Of mmpretrain, mmdet or mmseg, or a network that takes images alone.
        images (Tensor): What its data preprocessor makes, (N, in_channels, H, W).
        data_samples (list, optional): Metadata of the images; two-stage detectors need it.

    Returns:
        tuple[Counter, dict[str, int]]: FLOPs of every module by its name, '' for the whole; and of that,
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

    flops = Counter({name.partition('.')[2]: count for name, count in counted.items() if name})
    # In a trace the bias of the step sizes is a row more of their matrix: L D that no one counts elsewhere.
    biases = {name: -count // 10 for name, count in scans.items()}
    for name, more in [item for counts in (scans, transforms, scales, biases) for item in counts.items()]:
        path = name.split('.')
        for length in range(len(path) + 1):
            flops['.'.join(path[:length])] += more
    wavelet = sum(count for name, count in flops.items() if name.endswith('.wavelet_conv'))
    added = {'scan': sum(scans.values()), 'Haar transforms': sum(transforms.values())}
    return flops, {**added, 'wavelet convolutions': wavelet}


def default_shape(config, picture=None):
    """Height and width of a segmentor's crops, or else the largest that the test pipeline makes.

    Args:
        config (Config): Of mmpretrain, mmdet or mmseg.
        picture (tuple[int, int], optional): Height and width of a picture: what the pipeline makes of this.

    Raises:
        DeploymentError: If the config says neither.
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
    """The model of a config, without its weights, and a blank image as it wants it.

    Args:
        config (Config): Of mmpretrain, mmdet or mmseg.
        shape (tuple[int, int]): Height and width of the image, before the model's own padding.

    Returns:
        tuple[BaseModel, Tensor, list]: Model, images (1, in_channels, H, W), their metadata.
    """
    init_default_scope(codebase_of(config) or 'mmengine')
    preprocessor = dict(config.model.get('data_preprocessor') or config.get('data_preprocessor') or {})
    preprocessor.update(mean=None, std=None)  # those of a recipe may be of other channels, and count nothing
    model = MODELS.build({**config.model, 'data_preprocessor': preprocessor})
    meta = BaseDataElement(metainfo=dict(img_shape=shape, ori_shape=shape, scale_factor=(1.0, 1.0)))
    channels = (config.model.get('backbone') or {}).get('in_channels', 3)
    data = model.data_preprocessor(dict(inputs=[torch.zeros(channels, *shape)], data_samples=[meta]))
    return model, data['inputs'], data['data_samples']


def table(model, flops, portions):
    """Parameters and FLOPs by part, as lines of text.

    What is computed between calls of modules, as the resizing in mmseg's heads, belongs to no part that
    the analyzer knows; it is the ``rest``.
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
        '--shape', type=int, nargs=2, metavar=('HEIGHT', 'WIDTH'), help="default: the config's own"
    )
    sizes.add_argument(
        '--picture',
        type=int,
        nargs=2,
        metavar=('HEIGHT', 'WIDTH'),
        help='size of a picture before the test pipeline',
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
    except RuntimeError as error:  # of a neck that doubles its maps, where they had an odd side
        sys.exit(
            f'{args.config}: the model cannot take {height} x {width} pixels: {error}. Its neck may want '
            f'multiples of its largest stride, which is 64 for the whole backbone: give --shape HEIGHT WIDTH.'
        )
    print(f'{args.config}: {shape[0]} x {shape[1]} pixels, {height} x {width} for the network')
    print('\n'.join(table(model, flops, portions)))


if __name__ == '__main__':
    main()
