"""How models point, in text: one file for each family of models, with its form and its range of coordinates.

The range is the family's, as configured, and never guessed from an answer: (1, 1) is a corner in one family and next
to the opposite corner in another. Reading is total: any text gives points, `NotVisible`, or `Unparsed` with a reason,
in time linear in its length, and nothing of it is evaluated.
"""
