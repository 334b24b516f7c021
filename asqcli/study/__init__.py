"""Many runs compared: a file of rows, bits and seeds, each of whose cells is an ordinary run.

A cell is what one `asq quantize` line says; each is trained by a process of its own, so that a crash or a divergence is
the cell's alone. No torch: the processes have it.

schema       the study's file: its keys
load         read it, and tell all its mistakes
cells        what each trains, what it is called, which goes first
expand       rows, grid and seeds to cells
command      a cell to the command line that trains it
work         the study's folder: what each cell has come to, what is to be done
processes    cells at work, some at once; signals go on to them
lock         one study at a time in a folder
estimate     how long cells will take
plan         what a dry run tells
statistics   mean, spread, comparison by pairs of seeds
coincidence  rows that are the same by construction
document     study.json
table        the same as rows of text, for the terminal, study.md and study.csv
"""
