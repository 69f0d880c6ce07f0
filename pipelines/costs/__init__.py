"""What a run costs: time, memory, disk; measured and foretold."""
