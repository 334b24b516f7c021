"""Several processes that train one network.

part      the share of every batch that a process takes
"""
