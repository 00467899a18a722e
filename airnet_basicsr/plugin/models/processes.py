"""What the processes that train or test together tell one another."""

from typing import Any

from torch import distributed


def gather(value: Any) -> list[Any]:
    """``value`` of every process, in their order."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [value]
    values = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values
