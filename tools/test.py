"""Test a config of this package with the test script of its codebase.

mim test mmmobilemamba NAME.py --checkpoint CHECKPOINT
python tools/test.py CONFIG CHECKPOINT [any option of the codebase's tools/test.py]
torchrun --nproc-per-node 2 tools/test.py CONFIG CHECKPOINT --launcher pytorch
"""

from train import main

if __name__ == '__main__':
    main('test.py', __doc__)
