"""What the tokenizers library does with damaged input, as a sentence."""

import contextlib
from collections.abc import Iterator

from steelyard_runtime.checkpoint_files.reading import shown
from steelyard_runtime.errors import CheckpointError

_PANIC = "PanicException"


@contextlib.contextmanager
def refusing_damage(what: str) -> Iterator[None]:
    """Make whatever the library raises a CheckpointError that begins with `what`.

    It raises bare Exceptions, and its panics derive from BaseException and cannot be imported.
    """
    try:
        yield
    except CheckpointError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != _PANIC:
            raise
        raise CheckpointError(f"{what}: {shown(str(error))}") from None
