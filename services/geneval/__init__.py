"""The GenEval reward service: object detection, colour naming, and GenEval's rules on top.

This package imports nothing heavy by itself, so that `python -m services.geneval.rules` starts at once.
"""
