"""``safa checkpoint``: inspect and pack models, convert between the released layout and ours."""

from __future__ import annotations

import argparse
import sys
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add ``safa checkpoint`` to the command line."""
    parser = subparsers.add_parser(
        "checkpoint", help="inspect and pack checkpoints, convert released ones to ours and back"
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    inspect = actions.add_parser("inspect", help="show what a checkpoint holds, released or ours")
    inspect.add_argument("checkpoint", help="a released file, or one of our folders; or its URI")
    inspect.set_defaults(run=_inspect)

    convert = actions.add_parser(
        "convert",
        help="convert a released file to one of our folders, or back",
        description="A file becomes a folder, and a folder a file. Weights, optimiser states and epoch "
        "are kept bit for bit. Only tensors are ever unpickled.",
    )
    convert.add_argument("checkpoint", help="a released file, or one of our training states")
    convert.add_argument("-o", "--output", required=True, help="the folder or file to write")
    convert.add_argument(
        "--config", help="YAML with a `model` section, if the sizes differ from the published ones"
    )
    convert.set_defaults(run=_convert)

    pack = actions.add_parser(
        "pack",
        help="write a model that is small enough to give away",
        description="Leaves out the built-in 3D head, which is made anew when the model is loaded.",
    )
    pack.add_argument("checkpoint", help="a run folder of the full stage; or its URI")
    pack.add_argument("-o", "--output", required=True, help="the folder to write")
    pack.set_defaults(run=_pack)


def _pack(arguments: argparse.Namespace) -> int:
    from safa.checkpoint.native import load_model, pack_model
    from safa.files import location, shown

    output = _new_output(arguments.output)
    model, info = load_model(location(arguments.checkpoint))
    pack_model(output, model, info)
    sys.stdout.write(f"wrote {shown(output)}: stage {info.stage}, step {info.step}\n")
    return 0


def _new_output(name: str) -> Any:
    from safa.errors import UserError
    from safa.files import dir_exists, exists, location, shown

    output = location(name)
    if exists(output) or dir_exists(output):
        raise UserError("already exists", shown(output), "Give another output, or delete it.")
    return output


def _inspect(arguments: argparse.Namespace) -> int:
    from safa.checkpoint.native import read_model_weights
    from safa.checkpoint.released import read_released
    from safa.files import is_file, location, shown

    path = location(arguments.checkpoint)
    if not is_file(path):
        weights, info = read_model_weights(path)
        sys.stdout.write(
            f"{shown(path)}: stage {info.stage}, step {info.step}, {info.config.image_size} px\n"
        )
        parts: dict[str, list[int]] = {}
        for name, value in weights.items():
            parts.setdefault(name.split(".")[0], []).append(value.numel())
    else:
        released = read_released(path)
        sys.stdout.write(f"{shown(path)}: released layout, epoch {released.epoch}\n")
        parts = {
            name: [value.numel() for value in state.values()] for name, state in released.networks.items()
        }
        for name, optimiser in released.optimisers.items():
            sys.stdout.write(f"  optimizer_{name:<14} {len(optimiser['state']):>5} states\n")
    for name, sizes in parts.items():
        sys.stdout.write(f"  {name:<24} {len(sizes):>5} tensors  {sum(sizes):>12,} numbers\n")
    return 0


def _convert(arguments: argparse.Namespace) -> int:
    from safa.checkpoint.released import export_released, import_released
    from safa.files import is_file, location, shown

    source, output = location(arguments.checkpoint), _new_output(arguments.output)
    if not is_file(source):
        export_released(source, output)
        sys.stdout.write(f"wrote {shown(output)} in the released layout\n")
        return 0
    info = import_released(source, output, _model_config(arguments.config))
    sys.stdout.write(f"wrote {shown(output)}: stage {info.stage}, step {info.step}\n")
    return 0


def _model_config(path: str | None) -> Any:
    """Read the sizes from a config's ``model`` section; without a config they are the published ones."""
    from safa.config import ModelConfig, Settings, load_settings
    from safa.files import location

    if path is None:
        return ModelConfig()

    class OnlyModel(Settings):
        model: ModelConfig

    return load_settings(location(path), OnlyModel).model
