# Mask2Former with MobileMamba-B4, 160,000 iterations of ADE20K; a starting point that nobody has trained.
# Requires mmdet for the pixel decoder and the losses.
_base_ = 'mmseg::mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py'
custom_imports = dict(_delete_=True, imports=['mmmobilemamba.mmseg'], allow_failed_imports=False)

# The authors' ImageNet weights of B4, downloaded on first use. A path works too.
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
    # Masks are predicted at the finest stride, so DeconvFPN adds stride 8.
    neck=dict(
        type='DeconvFPN',
        in_channels=['stage0', 'stage1', 'stage2'],
        out_channels=256,
        num_outs=4,
        norm_cfg=dict(type='GN', num_groups=32),
    ),
    decode_head=dict(
        in_channels=[256, 256, 256, 256],
        strides=[8, 16, 32, 64],  # ignored by mmdet 3.3.0; the pixel decoder has its own
        pixel_decoder=dict(strides=[8, 16, 32, 64]),
    ),
)

default_hooks = dict(training_check=dict(type='TrainingCheckHook'))
runner_type = 'PortableRunner'  # rejects empty epochs and datasets; distributed and AMP training on CPU
visualizer = dict(type='ContiguousSegVisualizer')
