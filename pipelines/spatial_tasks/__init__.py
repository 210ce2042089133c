"""The x3 spatial tasks: find an object of one view in another, or what was changed: `assay spatial`.

points.py         answers as text, and points of a concatenated picture;   masks.py: which pixels are the target
building/         the tasks from the data: `assay spatial build`
evaluation/       a spatial judge's answers, measured: `assay spatial eval`
zero_shot.py      build, four evaluations, one table: `assay spatial zero-shot`

The protocol is that of Solvement/RoboRefer-FineTuning (Apache-2.0; tools/build_spatial_tasks_x3.py and
tools/eval_spatial_tasks.py at 60fbb6b), read and written anew. Where it has a defect, `compat` reproduces it.
"""
