# A small distillation: T2 learns from a B1 trained with mobilemamba-b1_1xb32-2e_digits-64px.py.
_base_ = './mobilemamba-t2_1xb64-4e_digits-64px.py'

# From that training. For another file: --cfg-options model.teacher.init_cfg.checkpoint=FILE
checkpoint = 'work_dirs/mobilemamba-b1_1xb32-2e_digits-64px/epoch_2.pth'
model = dict(
    type='DistilledClassifier',
    teacher=dict(
        type='ImageClassifier',
        backbone=dict(type='MobileMamba', arch='b1'),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='MobileMambaClsHead', num_classes=10, in_channels=448),
        data_preprocessor=_base_.data_preprocessor,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint),
    ),
    teacher_size=_base_.digits_size,
    kd_weight=5.0,
    tau=1.0,
)

epochs = 2
train_dataloader = dict(batch_size=32)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
auto_scale_lr = dict(base_batch_size=32)
train_cfg = dict(max_epochs=epochs)
param_scheduler = dict(T_max=epochs, end=epochs)
