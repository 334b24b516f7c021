"""What the user types and sees; no mathematics.

Command functions import what needs torch inside, so that `asq --help` and mistakes in a recipe answer at once.
"""
