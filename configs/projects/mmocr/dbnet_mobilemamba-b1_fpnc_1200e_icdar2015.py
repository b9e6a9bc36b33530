# DBNet with MobileMamba-B1. FPNC needs strides 4 to 32; DeconvFPN computes 4 and 8 from stages 0 and 1.
_base_ = 'mmocr::textdet/dbnet/dbnet_resnet18_fpnc_1200e_icdar2015.py'
custom_imports = dict(imports=['mmmobilemamba.mmdet'], allow_failed_imports=False)

# For another size, change `arch` and `checkpoint`; the widths follow.
model = dict(
    type='match_widths',
    model_type='DBNet',
    backbone=dict(
        _delete_=True,
        type='MobileMamba',
        arch='b1',
        out_indices=(0, 1),
        init_cfg=dict(type='Pretrained', checkpoint='mobilemamba://b1'),
    ),
    neck=[
        dict(
            type='DeconvFPN',
            in_channels=['stage0', 'stage1'],
            out_channels=256,
            num_outs=4,
            num_extra_trans_convs=2,
        ),
        dict(type='FPNC', in_channels=[256] * 4, lateral_channels=256),
    ],
)

default_hooks = dict(training_check=dict(type='TrainingCheckHook'))
runner_type = 'PortableRunner'
