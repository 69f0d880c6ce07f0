"""What MLflow is told of a run, and asked about what has been done."""
