"""`make bench-operator`: the operator's cost and speed with many services, beside its targets."""

import asyncio
import contextlib
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from steelyard_operator.bench import report
from steelyard_operator.bench.options import Options, parsed
from steelyard_operator.bench.run import run
from steelyard_operator.errors import OperatorError


async def _measured(options: Options, folder: Path) -> bool:
    async with run(options, folder) as one:
        await one.measure(folder)
    targets = report.judged(one.figures)
    given = {name: value for name, value in asdict(options).items() if not isinstance(value, Path)}
    document = {
        **report.provenance(options.programs),
        "options": given,
        "targets": targets,
        "figures": one.figures,
    }
    report.write(options.result, document)
    print(report.table(targets, one.figures))
    print(f"written to {options.result}")
    return all(each["met"] for each in targets.values())


def main() -> int:
    """Return 0 where every target was met, 1 where one was missed, 2 where nothing was measured."""
    options = parsed(sys.argv[1:], os.environ.get("KUBE_ASSETS"))
    with contextlib.ExitStack() as stack:
        if options.folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        else:
            folder = options.folder.absolute()
            folder.mkdir(parents=True, exist_ok=True)
        try:
            return 0 if asyncio.run(_measured(options, folder)) else 1
        except OperatorError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2


if __name__ == "__main__":
    sys.exit(main())
