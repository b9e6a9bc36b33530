# TSN with MobileMamba-B1 on three frames of a video.
_base_ = 'mmaction::recognition/tsn/tsn_imagenet-pretrained-r50_8xb32-1x1x3-100e_kinetics400-rgb.py'
custom_imports = dict(imports=['mmmobilemamba.mmaction'], allow_failed_imports=False)

# For another size, change `arch` and `checkpoint`; the widths follow.
model = dict(
    type='match_widths',
    model_type='Recognizer2D',
    backbone=dict(
        _delete_=True,
        type='MobileMamba',
        arch='b1',
        init_cfg=dict(type='Pretrained', checkpoint='mobilemamba://b1'),
    ),
    cls_head=dict(in_channels='stage2'),
)

default_hooks = dict(training_check=dict(type='TrainingCheckHook'))
runner_type = 'PortableRunner'
