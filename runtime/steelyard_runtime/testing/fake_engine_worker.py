"""`steelyard-runtime serve` in front of the fake engine: a worker process without a model.

`python -m steelyard_runtime.testing.fake_engine_worker FLAGS`.
"""

import sys

from steelyard_runtime.errors import ConfigError
from steelyard_runtime.server.command import main

ENGINE = (sys.executable, "-m", "steelyard_runtime.testing.fake_engine")

if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:], engine_command=ENGINE))
    except ConfigError as error:
        sys.stderr.write(f"steelyard-runtime: {error}\n")
        sys.exit(2)
