"""What verifiers and preference tuning learn from, made of a generator's own pictures: `assay data verifier`.

settings.py        its arguments
plan.py            units: a prompt's candidates, and their labels
draw_worker.py     draws candidates, and keeps unfinished pictures of Show-o's
label_worker.py    has a GenEval service say of each finished one whether it is right
paths.py           what the ledger knows of a candidate: its pictures, and its label
held_out.py        which candidates are kept for measuring
conversations.py   pictures with questions and answers, in LLaVA's JSON form
balance.py         as many yes as no
pairs.py           a right picture and a wrong one of the same prompt
derivation.py      how all of that is derived, on disk: it can be derived again
summary.py         the files, from the ledger
command.py         all of it put together
"""
