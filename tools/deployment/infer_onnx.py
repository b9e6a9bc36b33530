"""The older name of ``infer.py``, which takes files for every runtime."""

from infer import Network, NetworkError, Placement, Preparation, main  # noqa: F401

if __name__ == '__main__':
    main()
