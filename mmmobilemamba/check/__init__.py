"""Finds mistakes in a config, its data and its checkpoints, and suggests config lines that fix them.

``mim run mmmobilemamba check CONFIG`` runs all checks. Every training with a MobileMamba backbone runs the
checks of feature maps once, before the first iteration.

===============  ===================================================================
``failures``     errors of third-party code and of damaged files, as text
``finding``      the result of a check, changes of a config, and config lines as text
``maps``         the feature maps of a model for a blank image; only shapes are computed
``build``        the model of a config, and advice if it cannot be built
``strides``      strides and number of maps, compared with anchors, points and RoI extractors
``widths``       channels of maps, compared with necks and heads
``sides``        image sizes that a neck does not support, and the padding of mmseg
``segmentors``   maps that mmseg's heads read: indices, channels and sizes
``rounds``       the checks of maps, repeated with the changes that they suggest
``start``        these rounds at the start of a training
``files``        annotations, folders and images that are missing
``classes``      class names and the number of outputs of heads
``panoptic``     things and stuff of panoptic segmentors
``zero_label``   ``reduce_zero_label`` of mmseg
``batches``      batch sizes of dataloaders and samplers
``loss``         the loss of two images
``data``         dataloaders, their first images and masks
``checkpoints``  ``load_from``, ``init_cfg``, and a checkpoint to test
``schedule``     iterations, warm-up and learning rate
``kernels``      the backends that run the operations on this machine
``whole``        all checks of a config
===============  ===================================================================

Each module only imports modules above it. The backbone imports ``start``, so ``start`` and the modules above
it do not import any network.
"""
