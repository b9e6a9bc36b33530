"""Former name of ``evaluate.py``, which supports files for every runtime."""

from evaluate import main

if __name__ == '__main__':
    main()
