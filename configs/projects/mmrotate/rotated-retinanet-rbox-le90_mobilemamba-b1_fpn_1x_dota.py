# Rotated RetinaNet with MobileMamba-B1. DeconvFPN extends strides 16, 32 and 64 to 8 and 128.
_base_ = 'mmrotate::rotated_retinanet/rotated-retinanet-rbox-le90_r50_fpn_1x_dota.py'
custom_imports = dict(imports=['mmmobilemamba.mmdet'], allow_failed_imports=False)

# For another size, change `arch` and `checkpoint`; the widths follow.
model = dict(
    type='match_widths',
    model_type='mmdet.RetinaNet',
    backbone=dict(
        _delete_=True,
        type='MobileMamba',
        arch='b1',
        out_indices=(0, 1, 2),
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint='mobilemamba://b1'),
    ),
    neck=dict(
        type='DeconvFPN',
        in_channels=['stage0', 'stage1', 'stage2'],
        start_level=0,
        num_extra_trans_convs=1,
    ),
)

default_hooks = dict(training_check=dict(type='TrainingCheckHook'))
runner_type = 'PortableRunner'
