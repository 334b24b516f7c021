"""Pictures of a report.

pictures     all of them, with their names and what they show in words
parts        what they have in common: places of layers, spreads, values before and after rounding, legends
curves       accuracy and loss over epochs
rounding     levels of weights, inputs of a layer
errors       errors of layers and outputs, beside each other
betas        the adapters' answers over images and over training
study        accuracy of the rows of a study
"""
