"""Former name of ``export.py``, which writes files for every runtime."""

from export import main

if __name__ == '__main__':
    main()
