"""imgrec: recognize what is in your pictures, with the best model your data and time allow."""

__version__ = "0.1.0"
