"""The page of ``safa app``: three tabs in a browser, served only on this machine by default."""

from safa.app.page import Address, serve
from safa.app.work import Limits

__all__ = ["Address", "Limits", "serve"]
