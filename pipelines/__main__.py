"""`python -m pipelines` is `imgrec`."""

from pipelines.cli import main

main()
