"""What to draw, planned: a vision-language model reads questions with images and writes instructions for the generator.

questions           a JSONL file of questions, each with its images
question_file.py    ... read and checked
plan.py             a unit of work for each
planner.py          asks the model, with the template in `template.txt`
instructions.py     its text, read: a list of instructions, whatever it wrote
summary.py          `<name>/results.jsonl`, which `assay generate` reads
"""
