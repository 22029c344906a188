"""`python -m fathom` is `fathom`."""

from fathom.cli.main import run

run()
