"""Images from planners' instructions: `assay generate`.

settings.py      its arguments
records.py       the planners' files, checked
plan.py          a unit for each sample
image_worker.py  a sample's images, made with FLUX.2 klein
statistics.py    stats.json, from the ledger
command.py       all of it put together
"""
