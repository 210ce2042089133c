"""From views, masks and inpainted views to questions with answers: `assay spatial build`.

data_folder.py    which files there are, and which are missing
settings.py       its arguments;   derivation.py: those of them that decide the questions, kept on disk
prompts.py        the questions' wording
plan.py           units: the marked views of a scene, and its concatenated pairs
mark_worker.py    marks the target in each view;   view_facts.py: what is known of a view then
concat_worker.py  puts pairs of views side by side
samples.py        a question with its answer, as JSON
summary.py        the files, and the report of what is missing, from the ledger
command.py        all of it put together
"""
