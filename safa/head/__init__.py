"""The 3D head: its arrays (``assets``), blend skinning and camera (``model``), rasteriser and renderer.

``builtin`` makes a head that needs no download. It is built from ``assets``, so the choice between it and a
file is made here, above both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from safa.config.model import HeadConfig
    from safa.head.assets import HeadAssets


def load_head_assets(config: HeadConfig) -> HeadAssets:
    """The arrays of the head that a config names: a file, or the built-in head if it names none.

    Raises:
        UserError: no such file, or not one of a head.
    """
    # Imported when asked for: building the head takes a second that most commands need not spend.
    if config.assets is not None:
        from safa.head.assets import HeadAssets

        return HeadAssets.load(config.assets)
    from safa.head.builtin import build

    return build().assets
