"""Forward hooks that record the outputs of modules inside a network without changing it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def recorded_outputs(network: nn.Module, names: Sequence[str]) -> Iterator[Mapping[str, Tensor]]:
    """Within the block, the mapping holds the last output of each named submodule."""
    seen: dict[str, Tensor] = {}

    def recorder(name: str) -> Any:
        def record(module: nn.Module, inputs: Any, output: Tensor) -> None:
            seen[name] = output

        return record

    hooks = [network.get_submodule(name).register_forward_hook(recorder(name)) for name in names]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
