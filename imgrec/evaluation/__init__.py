"""Scores, calibration and pictures of a finished classifier."""
