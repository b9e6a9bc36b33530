"""The older name of ``evaluate.py``, which takes files for every runtime."""

from evaluate import main

if __name__ == '__main__':
    main()
