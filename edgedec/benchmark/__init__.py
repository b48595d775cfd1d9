"""How much faster drafting is here, and at what price: measured beside plain decoding.

workloads.py   what is measured: texts to write, to go on with, to edit, to quote from
prompts.py     files of prompts; those in texts/ ship
play.py        contestants answering the same prompts in turn
pairs.py       what pairs of runs say: medians, intervals, repetition
stand.py       an engine with the models that share it
replay.py      a small model's words at a large shape's speed
forced.py      a given text in place of a model
shapes.py      the large shapes, with random weights
stopwatch.py   a clock that can be held
memory.py      what a process takes that does nothing else
suite.py       the whole of it, row by row
results.py     what a contestant did, as a row
rows.py        rows, as JSON and CSV, and their means
table.py       rows for a terminal
report.py      rows as a page to look at, with charts.py and report.html

It prints nothing.
"""
