"""`python -m sabtune`."""

from sabtune.cli import main

main()
