"""The older name of ``export.py``, which takes the same arguments and writes more kinds of files."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # where mim starts a tool, it is not

from export import main

if __name__ == '__main__':
    main()
