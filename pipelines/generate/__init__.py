"""Images from planners' instructions: `assay generate`.

settings.py        its arguments
records.py         the planners' files, checked
relations.py       what the records' images should show
plan.py            a unit for each sample, and one for its scores
image_worker.py    a sample's images, made with FLUX.2 klein
score_worker.py    judged by a spatial service
statistics.py      stats.json, from the ledger
spatial_scores.py  spatial_scores.json, from the ledger
command.py         all of it put together
"""
