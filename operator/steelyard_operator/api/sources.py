"""Where a checkpoint comes from. Data only."""

from typing import Annotated

from pydantic import Field

from steelyard_operator.api.meta import MODEL_URI_PATTERN, Names

ModelUri = Annotated[str, Field(max_length=1024, pattern=MODEL_URI_PATTERN), Names.CHECKPOINT]
"""The address of a checkpoint."""
