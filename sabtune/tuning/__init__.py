"""Search: Optuna chooses configurations and Ray Tune runs them.

run          a search from start to end
searcher     connects Optuna's study to Ray Tune
trainable    a trial as Ray Tune runs it in a worker
asha         asynchronous successive halving
budget       the time limits of a search
placement    the CPUs and GPUs of each trial
probe        the time and memory that a trial takes
dry_run      predicts what a search would take
guard        keeps exceptions in the search's own code from reaching Ray Tune
optuna_ui    Optuna's dashboard for a store
"""

import sabtune.cluster  # noqa: F401  imported before Ray: it sets variables that Ray reads
