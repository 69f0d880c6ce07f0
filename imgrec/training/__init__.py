"""The training loop and all that changes while it runs."""
