# FCOS with MobileMamba-B1, 12 epochs of COCO 2017; a starting point that nobody has trained. Data, schedule,
# backbone and the strides of the five levels, 8 to 128, are RetinaNet's.
_base_ = '../retinanet/retinanet_mobilemamba-b1_fpn_1x_coco.py'

# For another size, change `arch` and `checkpoint`; the widths follow.
model = dict(
    model_type='FCOS',
    neck=dict(add_extra_convs='on_output', relu_before_extra_convs=True),
    bbox_head=dict(
        _delete_=True,
        type='FCOSHead',
        num_classes=80,
        in_channels=256,
        strides=(8, 16, 32, 64, 128),
        norm_cfg=dict(type='GN', num_groups=32),
    ),
    train_cfg=None,  # RetinaNet's assigns anchors; FCOS has none
)
