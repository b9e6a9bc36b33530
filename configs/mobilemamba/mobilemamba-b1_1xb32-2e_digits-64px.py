# B1 on crops of the digits scenes, the teacher of mobilemamba-t2_1xb32-2e-kd_digits-64px.py.
_base_ = './mobilemamba-t2_1xb64-4e_digits-64px.py'

model = dict(backbone=dict(arch='b1'), head=dict(in_channels=448))

epochs = 2
train_dataloader = dict(batch_size=32)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
auto_scale_lr = dict(base_batch_size=32)
train_cfg = dict(max_epochs=epochs)
param_scheduler = dict(T_max=epochs, end=epochs)
