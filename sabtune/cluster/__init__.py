"""Connections to Ray, on this machine or on a cluster, and checks of the machines.

ray_session   the Ray that a search uses: a cluster's, or a private one on this machine
slurm         what a Slurm job allocates on this machine
slurm_job     runs a command on all nodes of a Slurm job, for slurm.sbatch
sockets       the longest path of Ray's sockets
local_ray     a private Ray on this machine, in a private folder, on the loopback interface only
ray_watch     notices when Ray's processes end
cluster_file  the nodes in a cluster file for `ray up`
jobs, ssh     the jobs on a cluster's head, reached from outside by SSH
token         the location of Ray's token
capacity      the resources of the nodes, and how many trials fit on them
doctor        `sabtune doctor`: checks every node and the store
node_facts    the facts of one node: versions, GPUs, disks, token
findings      the problems that these facts show
preflight     checks of a cluster file and this machine before a cluster is used

Importing this package sets the environment that Ray reads when it is imported.
"""

import logging
import os
import sys

ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",  # the same on one machine and on a cluster
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean the same in trials and in the driver
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # workers use this environment unchanged
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the default of a later version of Ray
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_prestart_worker_first_driver": "0",  # Tune's workers need an environment of their own
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no CSV, JSON and TensorBoard files
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune's new output prints even with verbose=0
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # `tuning.run` handles all signals in the same way
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",  # Tune's state grows with the trials and is never read
}
"""Defaults of Ray's environment variables; a value that the user sets takes precedence."""

USER_VARIABLES = {name for name in os.environ if name.startswith("RAY_")} - set(ENVIRONMENT)
"""The names of Ray's variables that the user set."""

RAY_IS_OLDER = "ray" in sys.modules and "RAY_AUTH_MODE" not in os.environ
"""Whether the program imported Ray before this package, without Ray's authentication."""

# In a notebook, Ray asks for ipywidgets, which only its own displays need.
logging.getLogger("ray.widgets.util").setLevel(logging.WARNING)

# Set them here, because Ray reads some of them only when it is first imported.
for _name, _value in ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)
