"""`python -m steelyard_operator.monitoring FOLDER`: write the files there."""

import sys
from pathlib import Path

from steelyard_operator.monitoring.files import files

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files().items():
        (folder / name).write_text(text, encoding="utf-8")
