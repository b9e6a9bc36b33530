# RTMDet-s with MobileMamba-B1, 300 epochs of COCO 2017; a starting point that nobody has trained.
_base_ = 'mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py'
custom_imports = dict(imports=['mmmobilemamba.mmdet'], allow_failed_imports=False)

# The authors' ImageNet weights of B1, downloaded on first use. A path works too.
checkpoint = 'mobilemamba://b1'

# Stages 0 and 1 have strides 16 and 32; DeconvFPN adds stride 8. The PAFPN is RTMDet-s's own.
pafpn = _base_.model.neck
pafpn['in_channels'] = [128, 128, 128]

# For another size, change `arch` and `checkpoint`; the widths follow.
model = dict(
    type='match_widths',
    model_type='RTMDet',
    # As the ImageNet weights expect; RTMDet itself uses BGR.
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True),
    backbone=dict(
        _delete_=True,
        type='MobileMamba',
        arch='b1',
        out_indices=(0, 1),
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint),
    ),
    neck=[
        dict(type='DeconvFPN', in_channels=['stage0', 'stage1'], out_channels=128, num_outs=3),
        pafpn,
    ],
)

auto_scale_lr = dict(base_batch_size=256)  # 8 x 32; the inherited config has 16
default_hooks = dict(training_check=dict(type='TrainingCheckHook'))
runner_type = 'PortableRunner'  # rejects empty epochs and datasets; distributed and AMP training on CPU
