# Shared by the small segmentors: a neck with a finer level, a loss for thin strokes, and heads.
# The digits configs inherit the rest from a recipe, so these names must differ from the recipe's.

# Adds stride 8: strokes are a few pixels wide, too thin for maps of stride 16.
digits_neck = dict(
    type='DeconvFPN',
    in_channels=['stage0', 'stage1', 'stage2'],
    out_channels=64,
    num_outs=4,
    num_extra_trans_convs=1,
    norm_cfg=dict(type='GN', num_groups=8),
)
# About nine in ten pixels are background, and cross entropy alone learns little else for a long time. The
# Dice loss covers the digits only: its `ignore_index` is the background class.
digits_loss = [
    dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    dict(type='DiceLoss', use_sigmoid=False, ignore_index=0, loss_weight=1.0),
]
# Replaces synchronised batch norm, for batches of four.
digits_norm = dict(type='GN', num_groups=8)
# Initialises the last convolution. With the usual 0.01, digits take longer to separate.
digits_init = dict(type='Normal', std=0.2, override=dict(name='conv_seg'))
digits_decode_head = dict(
    in_channels=[64] * 4,
    in_index=[0, 1, 2, 3],
    channels=64,
    dropout_ratio=0,  # training is too short to overfit
    num_classes=11,
    norm_cfg=digits_norm,
    loss_decode=digits_loss,
    init_cfg=digits_init,
)
digits_auxiliary_head = dict(
    in_channels=64, in_index=1, channels=64, num_classes=11, norm_cfg=digits_norm, init_cfg=digits_init
)
