"""The page of ``safa app``: three tabs in a browser, served on this machine alone unless told otherwise."""

from safa.app.page import serve
from safa.app.work import Limits

__all__ = ["Limits", "serve"]
