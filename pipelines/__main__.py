"""`python -m pipelines` is `imgrec`."""

from pipelines.cli.app import main

main()
