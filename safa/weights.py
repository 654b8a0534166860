"""Weights as plain tensors by name: written, read without running anything, compared and loaded strictly.

``write_tensors`` and ``read_tensors`` are for our own files, ``read_weights`` for files of other people.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from safa.errors import UserError
from safa.files import Location, check_regular, local_file
from safa.limits import check_limit
from safa.reading import boundary
from safa.unpickle.torch_file import load_torch_file

_SHOWN = 3  # names in an error


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write one safetensors file. A tensor with two names is written twice: the format has no aliases."""
    seen: set[int] = set()
    plain = {}
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        if value.untyped_storage().data_ptr() in seen:  # the format has no views of one storage either
            value = value.clone()
        seen.add(value.untyped_storage().data_ptr())
        plain[name] = value
    save_file(plain, path)
    path.chmod(0o644)  # safetensors leaves it readable by its owner alone


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read what ``write_tensors`` wrote, onto the CPU.

    Raises:
        UserError: no such file, or damaged.
    """
    return _read_safetensors(path, "cannot be read", "Use another checkpoint.")


def read_weights(location: Location) -> Mapping[str, Tensor]:
    """Read a flat state dict that someone else published: ``.safetensors``, or a PyTorch file (``.pth``).

    Nothing but tensors is ever unpickled.

    Raises:
        UserError: the file cannot be read, or holds anything but tensors by name.
    """
    with local_file(location) as path:
        return _read_weights(path)


def _read_weights(path: Path) -> Mapping[str, Tensor]:
    check_regular(path)
    if path.suffix == ".safetensors":
        state: object = _read_safetensors(path, "no state dict of tensors")
    else:
        state = load_torch_file(path)
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise UserError("no state dict of tensors", str(path))
    check_finite(state, str(path))
    return state


def _read_safetensors(path: Path, what: str, fix: str = "") -> dict[str, Tensor]:
    check_regular(path)
    check_limit("weights_bytes", path.stat().st_size, str(path))  # a sparse file takes no room but in memory
    with boundary(str(path), what, fix):
        return load_file(path)


def strip_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Select the tensors whose names start with ``prefix``, and drop it from their names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def trained_parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that learn, by name, in the order in which the optimiser numbers them."""
    return {name: p for name, p in network.named_parameters() if p.requires_grad}


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Put weights into a network, which must have exactly these names and shapes.

    Args:
        where: the origin of the weights, for the error.

    Raises:
        UserError: as ``check_weights``.
    """
    check_weights(network.state_dict(), weights, where)
    network.load_state_dict(dict(weights))


def load_layers(
    network: nn.Module,
    layers: Mapping[str, str],
    weights: Mapping[str, Tensor],
    where: str,
    *,
    among: str = "",
    if_absent: str,
    if_misfit: str,
) -> None:
    """Put published weights into layers of a network; others keep what they have.

    Args:
        layers: names of weights in the network to those in the file, which may have more.
        where: the origin of the weights, for errors.
        among: what a name is missing from, in words, for an error.
        if_absent, if_misfit: what to do where a layer is absent, or of another shape.

    Raises:
        UserError: a layer is absent or of another shape.
    """
    own = network.state_dict()
    for name, theirs in layers.items():
        if theirs not in weights:
            raise UserError(f"no '{theirs}'{among}", where, if_absent)
        if weights[theirs].shape != own[name].shape:
            shapes = f"{tuple(weights[theirs].shape)}, not {tuple(own[name].shape)}"
            raise UserError(f"'{theirs}' is {shapes}", where, if_misfit)
        own[name] = weights[theirs]
    network.load_state_dict(own)


def check_weights(expected: Mapping[str, Tensor], loaded: Mapping[str, Tensor], where: str) -> None:
    """Compare names and shapes of the weights that a network has with those that were read.

    Raises:
        UserError: in one line, which names are missing, unexpected or of another shape.
    """
    reshaped = [
        f"{name} ({_size(loaded[name])} instead of {_size(expected[name])})"
        for name in expected
        if name in loaded and loaded[name].shape != expected[name].shape
    ]
    differences = [
        _listed("missing", [name for name in expected if name not in loaded]),
        _listed("unexpected", [name for name in loaded if name not in expected]),
        _listed("of another shape", reshaped),
    ]
    if any(differences):
        shown = "; ".join(difference for difference in differences if difference)
        raise UserError(
            f"weights do not fit ({shown})", where, "The model's settings must be those of the weights."
        )


def check_finite(weights: Mapping[str, Tensor], where: str) -> None:
    """Refuse weights of which one is not a number, or infinite: no picture can be made with them.

    Raises:
        UserError: it names the first such tensor.
    """
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not _is_finite(tensor):
            raise UserError(f"'{name}' holds numbers that are not finite", where, "Use another checkpoint.")


def _is_finite(tensor: Tensor) -> bool:
    """Whether all values are finite. A sum is finite only then; where it is not, it may have overflowed."""
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def _listed(label: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} {label}: {', '.join(names[:_SHOWN])}{more}"


def _size(tensor: Tensor) -> str:
    return "x".join(str(n) for n in tensor.shape) or "scalar"
