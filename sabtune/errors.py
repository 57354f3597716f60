"""Errors that you can fix. Each message is one line that names the problem and the remedy."""


class SabtuneError(Exception):
    """The base class of sabtune's errors. The command line prints the message and exits with 2.

    The message is one line that names the problem and the remedy. `sabtune.errors` defines a
    subclass for each kind of problem, such as `ConfigError` and `StoreError`.

    Example:
        >>> import sabtune as sab
        >>> try:
        ...     sab.Resources(gpus=1.5)
        ... except sab.SabtuneError as error:
        ...     print(error)
        gpus is 1.5: give 0, a fraction from 0.01, a whole number, or "auto"
    """


class ConfigError(SabtuneError, ValueError):
    """A configuration value that is out of range, of the wrong type, or under an unknown key."""


class InputError(SabtuneError, ValueError):
    """Tensors that do not fit a model or an operation, or one another."""


class StudyFileError(SabtuneError):
    """A study file that does not define a valid STUDY and space(trial)."""


class RejectedError(StudyFileError):
    """A configuration that is invalid, or that the space pruned. Others may be valid."""


class StoreError(SabtuneError):
    """A store that is not writable, is in use, or does not contain the study."""


class RefusedError(StoreError):
    """An object store that denies access, so that a retry cannot succeed."""


class DataError(SabtuneError):
    """A data set that is missing, damaged, or cannot be downloaded."""


class ResourceError(SabtuneError):
    """A trial that requests more resources than the machine or cluster has."""


class ClusterError(SabtuneError):
    """A cluster whose file is invalid, or that is unreachable or refuses a request."""


class CheckpointError(SabtuneError):
    """A checkpoint that is missing, damaged, or from another configuration."""


class DivergedError(SabtuneError):
    """Training that diverged: its gradients were not finite, or its loss stayed far too high."""


class LimitError(SabtuneError):
    """A trial that exceeds a limit of its study."""


class FailedTrialsError(SabtuneError):
    """A search whose trials all failed."""


class ConformanceError(SabtuneError, AssertionError):
    """A task, model or schedule that breaks its contract, found by `sabtune.testing`."""

    check = ""
    """The name of the check that failed, such as "streaming"."""


class TrackingError(SabtuneError):
    """An MLflow server that is unreachable, refuses a write, or contains another study."""


class UnexpectedError(SabtuneError):
    """An unexpected error; the message names the file that contains its traceback."""
