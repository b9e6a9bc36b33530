# SimCC on MobileMamba-B1's last stage. At stride 64, 192 x 256 pixels give a map of 3 x 4.
_base_ = 'mmpose::body_2d_keypoint/simcc/coco/simcc_res50_8xb64-210e_coco-256x192.py'
custom_imports = dict(imports=['mmmobilemamba'], allow_failed_imports=False)

# For another size, change `arch` and `checkpoint`; the widths follow.
model = dict(
    type='match_widths',
    model_type='TopdownPoseEstimator',
    backbone=dict(
        _delete_=True,
        type='MobileMamba',
        arch='b1',
        init_cfg=dict(type='Pretrained', checkpoint='mobilemamba://b1'),
    ),
    head=dict(in_channels='stage2', in_featuremap_size=(3, 4)),
)

default_hooks = dict(training_check=dict(type='TrainingCheckHook'))
