"""The search: Optuna chooses configurations, Ray Tune runs them.

run          a search from its start to its end
searcher     tells Ray Tune what to run next, and Optuna what came of it
trainable    a trial as Ray Tune runs it in a worker
asha         asynchronous successive halving
budget       how long a search may go on
placement    which CPUs and GPUs a trial is given; probe measures what it takes
dry_run      what a search would do
guard        keeps exceptions of the search's own code from Ray Tune
optuna_ui    Optuna's dashboard on a store
"""

import sabtune.cluster  # noqa: F401  before Ray, whose environment it sets
