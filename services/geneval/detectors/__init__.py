"""Object detectors behind one small interface, chosen by name."""
