"""The best of N images by a verifier's word: `assay best-of-n`.

settings.py    its arguments
prompts.py     what to draw
plan.py        units: a prompt with all its images
verifier.py    what is asked of the verifier service
outcome.py     N images, and the one that the verifier takes for the best
potential.py   N paths, judged on the way (PARM): the unpromising ones are given up
worker.py      does a unit
summary.py     what was chosen, asked, and saved
command.py     all of it put together
"""
