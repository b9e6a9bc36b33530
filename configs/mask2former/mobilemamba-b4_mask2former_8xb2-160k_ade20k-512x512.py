# Mask2Former with MobileMamba-B4, 160,000 iterations of ADE20K; a starting point that nobody has trained. It
# needs mmdet, whose pixel decoder and losses it has.
_base_ = 'mmseg::mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py'
custom_imports = dict(_delete_=True, imports=['mmmobilemamba.mmseg'], allow_failed_imports=False)

# The authors' ImageNet weights of B4, fetched at the first training; or the path of a file.
checkpoint = 'mobilemamba://b4'

# For another size, change `arch` and `checkpoint`; the widths follow.
model = dict(
    type='match_widths',
    model_type='EncoderDecoder',
    backbone=dict(
        _delete_=True,
        type='MobileMamba',
        arch='b4',
        out_indices=(0, 1, 2),
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint),
    ),
    # Masks are drawn at the finest stride, so DeconvFPN puts stride 8 in front.
    neck=dict(
        type='DeconvFPN',
        in_channels=['stage0', 'stage1', 'stage2'],
        out_channels=256,
        num_outs=4,
        norm_cfg=dict(type='GN', num_groups=32),
    ),
    decode_head=dict(
        in_channels=[256, 256, 256, 256],
        strides=[8, 16, 32, 64],  # not read in mmdet 3.3.0, whose pixel decoder has its own
        pixel_decoder=dict(strides=[8, 16, 32, 64]),
    ),
)

default_hooks = dict(training_check=dict(type='TrainingCheckHook'))
runner_type = 'PortableRunner'  # says of small data what to change; several processes without a GPU, too
visualizer = dict(type='ContiguousSegVisualizer')
