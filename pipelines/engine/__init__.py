"""Runs batches of units of work: each done once, published whole, skipped when it is already there.

    unit.py        what is to be done: (item, variant, stage), its inputs' hash, its seeds
    stage.py       how it is done: the two things to implement for a new batch job
    ledger.py      what has been done: entries beside the outputs, publishing by rename, failures, leases
    attempt.py     doing one unit once, in whatever process
    executors.py   where attempts run: in this process (default), or ray_actors.py: all GPUs of a machine or a cluster
    ray_head.py    whether Ray is still there
    batch.py       the loop: claim, hand out, settle, retry;   termination.py: SIGTERM unwinds it
    selection.py   --shard and --indices;   devices.py: which GPUs;   progress.py;   status.py: counts from the ledger

It knows nothing of models, images or prompts.
"""
