"""The names under which a study and its trials store their attributes.

Optuna stores the parameters, states and values of trials. Everything else is a user attribute of a
trial or of the study. `sabtune.study.plan` has the keys of the plan.
"""

from __future__ import annotations

# attributes of a trial
SPEC = "assignment"  # the trial's specification, which determines everything that it does
FIXED = "fixed"  # the run of a trial whose configuration the space doesn't choose
LABEL = "label"  # the group of an enqueued trial in a comparison
RETRY_OF = "retry_of"  # the number of the failed trial that this trial repeats
LADDER = "ladder"  # length results on the selection sequences, by which trials are ranked
TEST = "test"  # length results on the test sequences, which are reported
REASON = "reason"  # why the trial failed or was pruned
CHECKPOINT = "checkpoint"  # the last checkpoint's path in the store; in format 1, its full address
SCORES = "scores"  # by updates; only with several objectives, where Optuna stores no scores
ATTEMPTS = "attempts"  # the number of times that the trial was resumed
SECONDS = "seconds"  # computing time over all attempts
MEMORY = "memory"  # peak memory in MiB
PARAMETERS = "parameters"  # the number of parameters of the model
MULTIPLY_ADDS = "multiply_adds"  # of a step for one sequence, in the forward pass
ENVIRONMENT = "environment"  # software and hardware, see `sabtune.provenance`
RESULT = "result"  # LADDER, TEST, REASON, CHECKPOINT and the costs, in one write for speed
# attributes of a study
MODEL = "model"  # the trial number and the MLflow URI of the best trial's model
TRACKING = "tracking"  # URI of the MLflow with that model, without password; None: the store's own
VERSIONS = "versions"  # the trials with registered models, and which of them is the champion
PLAN = "plan"  # the settings of the study file that a report needs
IDENTITY = "identity"  # distinguishes the study from an earlier study of the same name
SEARCHER = "searcher"  # identifies the last search; only in a database server
FORMAT = "format"  # the version of this format, see `STORE_FORMAT`

STORE_FORMAT = 2
"""The version of the stored format. Increase it with every change after which older versions of
sabtune can't read a store, or would damage it."""
