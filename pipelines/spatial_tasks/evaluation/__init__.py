"""A spatial judge's answers to the x3 questions, measured: `assay spatial eval`.

settings.py        its arguments
rows.py            the questions, row by row, with the files that each needs
plan.py            units: a few questions each
ask_worker.py      has them answered by a service
judgement.py       one answer against its mask;   metrics.py: all of them
reference.py       both, as the reference has them
results.py         what is kept of each question
summary.py         the numbers, from the ledger;   page.py: the HTML page
command.py         all of it put together
"""
