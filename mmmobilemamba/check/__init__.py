"""Finds mistakes in a config, its data and its checkpoints, and suggests config lines that fix them.

``mim run mmmobilemamba check CONFIG`` runs all checks. Every training with a MobileMamba backbone runs the
checks of feature maps once, before the first iteration.

===============  ===================================================================
``finding``      the result of a check, and config lines as text
``maps``         the feature maps of a model for a blank image; only shapes are computed
``strides``      strides and number of maps, compared with anchors, points and RoI extractors
``widths``       channels of maps, compared with necks and heads
``sides``        image sizes that a neck does not support
``start``        the four checks of maps, at the start of a training
``data``         files, annotations, classes and masks
``checkpoints``  ``load_from``, ``init_cfg``, and a checkpoint to test
``schedule``     batches, iterations, warm-up and learning rate
``kernels``      the backends that run the operations on this machine
``whole``        all checks of a config
===============  ===================================================================

Each module only imports modules above it. The backbone imports ``start``, so ``start`` and the modules above
it do not import any network.
"""
