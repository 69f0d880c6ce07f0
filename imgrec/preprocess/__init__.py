"""From pictures as they are stored to what a model sees."""
