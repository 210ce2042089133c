"""GenEval's evaluation of a generator, or of images already made: `assay evaluate geneval`.

settings.py       its arguments
prompts.py        the prompt file, line by line;   image_folder.py: images already made
plan.py           units: a prompt's images, and their scores
image_worker.py   makes a prompt's images;   score_worker.py: has them scored by a service
results.py        a line for each image;   statistics.py: GenEval's numbers, intervals, comparisons
report.py         the table, the plots and the HTML page
command.py        all of it put together
"""
