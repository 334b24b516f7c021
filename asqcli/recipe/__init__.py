"""A YAML recipe to checked values.

schema     one model per section: every key, type, default, bound and meaning
keys       the same as a table: `asq recipe keys`, KEYS.md
defaults   what a data set calls for, below anything that the user says
load       read, override, report all mistakes together
layers     name patterns to the settings of each layer
resolve    defaults, recipe, flags and `--set` to one checked recipe
changes    what differs between two recipes
shipped    the recipes and studies that come with the package
"""
