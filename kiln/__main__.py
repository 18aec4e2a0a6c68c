"""``python -m kiln``."""

from kiln.cli.main import main

main()
