"""What `asq report` shows of runs and studies: measured, drawn, and put on one page.

subject    what is read from the folder of a run; no torch
study      what is read from the folder of a study
findings   what is measured, as plain numbers: all that pictures, page and `--json` know of a network
measure    a run's network on test images, beside itself without quantizers; torch, and nothing is drawn
draw       pictures of findings, of epochs and of studies; matplotlib, and no torch
page       one page of HTML with the pictures in it
files      where page and pictures go, and what they may replace
make       all of it in one go
"""
