# What the small segmentors share: a neck with finer levels, and a loss for thin strokes.
# A twin has the rest from its parent, so these names must not be the parent's.

# Strokes are a few pixels wide, too fine for maps of stride 16: it adds stride 8.
digits_neck = dict(
    type='DeconvFPN',
    in_channels=['stage0', 'stage1', 'stage2'],
    out_channels=64,
    num_outs=4,
    num_extra_trans_convs=1,
    norm_cfg=dict(type='GN', num_groups=8),
)
# Nine of ten pixels are background, which cross entropy alone learns first and for long. The Dice loss is
# of the digits alone: its `ignore_index` is a class.
digits_loss = [
    dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    dict(type='DiceLoss', use_sigmoid=False, ignore_index=0, loss_weight=1.0),
]
# Of batches of four, instead of synchronised batch norm.
digits_norm = dict(type='GN', num_groups=8)
# Of the last convolution. With the usual 0.01 it takes longer until the digits part from each other.
digits_init = dict(type='Normal', std=0.2, override=dict(name='conv_seg'))
