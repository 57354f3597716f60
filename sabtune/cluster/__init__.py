"""Ray's machines: reached, checked, and left in peace.

ray_session   the Ray that a search runs on: a cluster's, or one of its own on this machine
local_ray     one of its own: on loopback alone, in a private folder
ray_watch     notices when Ray's processes have ended
cluster_file  what a `ray up` file asks for
jobs, ssh     a cluster from outside: its head's jobs, reached through SSH
token         the token that Ray asks for
capacity      what the nodes have, and how many trials they hold
doctor        `sabtune doctor`: node_facts are what it looks at, findings what it makes of them
preflight     what is checked before a search is sent to a cluster

Importing this package sets the environment that Ray reads when it is imported.
"""

import os

ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",  # on one machine as on a cluster
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a trial's paths mean what the driver's do
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # workers use this environment as it stands
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # what Ray's next version does by itself
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_prestart_worker_first_driver": "0",  # Tune gives its workers an environment of their own
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no CSV, JSON and TensorBoard files beside ours
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune's other output prints even when it is to be silent
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # `run.execute` handles all signals alike
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",  # its state, which grows with the trials, is never read
}
"""How Ray is to behave, where the user hasn't said otherwise."""

GIVEN = {name for name in os.environ if name.startswith("RAY_")} - set(ENVIRONMENT)
"""The user's own settings of Ray."""

# Here, since ray reads some of these once, when it is first imported.
for _name, _value in ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)
