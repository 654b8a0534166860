"""Names, order, sizes and filled values of every network's state dict."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch import nn

from parity_cases.golden import Golden
from parity_cases.rows import Row, equal, exact

# float64 sums of float32 values: the order of adding leaves about this much.
SUM_RELATIVE = 1e-6


def networks(golden: Golden) -> dict[str, nn.Module]:
    """The networks by the names that the reference files use."""
    return {
        "generator": golden.safa.generator,
        "kp_detector": golden.safa.kp_detector,
        "discriminator": golden.discriminator,
        "tdmm": golden.safa.tdmm,
        "vgg": golden.vgg,
        "bisenet": golden.parser,
    }


def state_dict_keys(golden: Golden) -> Iterator[Row]:
    """Every key with its shape and dtype, in the released order."""
    reference = golden.json("state_dict_keys")
    for name, network in networks(golden).items():
        ours = [
            (key, list(v.shape), str(v.dtype).removeprefix("torch."))
            for key, v in network.state_dict().items()
        ]
        target = [(key, shape, dtype) for key, (shape, dtype) in reference[name].items()]
        different = sum(a != b for a, b in zip(ours, target, strict=False)) + abs(len(ours) - len(target))
        first = next((f"{a[0]} / {b[0]}" for a, b in zip(ours, target, strict=False) if a != b), "")
        detail = {"entries": str(len(ours)), "first": first or "-"}
        yield Row("state_dict_keys", name, float(different), 0.0, "same, in order", different == 0, detail)


def param_counts(golden: Golden) -> Iterator[Row]:
    """Number of parameters, how many of them are trained, and of state-dict entries."""
    reference = golden.json("param_counts")
    for name, network in networks(golden).items():
        parameters = list(network.parameters())
        ours = {
            "parameters": sum(p.numel() for p in parameters),
            "trainable": sum(p.numel() for p in parameters if p.requires_grad),
            "entries": len(network.state_dict()),
        }
        for quantity, count in ours.items():
            yield equal(
                "param_counts", f"{name}.{quantity}", np.array(count), np.array(reference[name][quantity])
            )


def fill_check(golden: Golden) -> Iterator[Row]:
    """The filled weights themselves: their first values and their sum."""
    reference = golden.json("fill_check")
    for name, network in networks(golden).items():
        firsts, sums = [], []
        for key, tensor in network.state_dict().items():
            target = reference.get(f"{golden.seed}/{name}/{key}")
            if target is None:
                continue
            values = tensor.double().flatten().numpy()
            *first, total = target
            firsts.append((values[: len(first)], np.array(first)))
            sums.append((values.sum(), total))
        if not firsts:  # a set whose seed the shared file does not list
            continue
        ours, theirs = (np.concatenate(side) for side in zip(*firsts, strict=True))
        yield equal("fill_check", f"{name}.first_values", ours, theirs)
        ours, theirs = (np.array(side) for side in zip(*sums, strict=True))
        yield exact("fill_check", f"{name}.sums", ours, theirs, SUM_RELATIVE)
