"""Subcommands of ``safa``: each has ``add_parser(subparsers)`` and imports heavy packages only when run."""
