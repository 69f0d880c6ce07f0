"""The command line: commands, and the pages that they print."""
