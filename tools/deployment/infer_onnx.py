"""Former name of ``infer.py``, which supports files for every runtime."""

from infer import Network, main  # noqa: F401
from pictures import NetworkError, Placement, Preparation, upright  # noqa: F401

if __name__ == '__main__':
    main()
