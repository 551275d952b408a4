"""``python -m privnb`` is the command line, as ``privnb`` is."""

from privnb.cli import app

app()
