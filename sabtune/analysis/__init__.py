"""What the trials of a study show: comparisons, importances and the conclusion.

statistics.py   means, shares and differences over few seeds, with intervals and tests
comparison.py   methods over the same fresh seeds
compared.py     the comparisons of a study, read from the store
importance.py   the importances of parameters, and how certain they are
fanova.py       functional ANOVA
conclusion.py   the conclusion: three sentences and the best configurations
table.py        tables for the terminal, Markdown and LaTeX
"""
