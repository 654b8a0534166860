"""The page of ``safa app``: three tabs in a browser, served on this machine alone unless told otherwise."""

from safa.app.limits import Limits
from safa.app.page import serve

__all__ = ["Limits", "serve"]
