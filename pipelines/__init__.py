"""The workflows, one a file, and the command line that starts them."""
