"""The Python interface: what the command line does, as functions and objects.

searching   search: run the trials of a study
comparing   confirm, ablate, extrapolate, reproduce
opened      open_study, study_names, report: read what a store holds
location    the store that a call names

`import sabtune` provides these names; see `sabtune.__all__`.
"""
