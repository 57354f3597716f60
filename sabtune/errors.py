"""The mistakes a person can mend. Each message shows the value and the remedy, on one line."""


class SabtuneError(Exception):
    """The family: the command line prints the message alone and exits with 2."""


class ConfigError(SabtuneError, ValueError):
    """A configuration value out of its range, of the wrong type, or under an unknown key."""


class InputError(SabtuneError, ValueError):
    """Tensors given to a model or an operation that don't fit it or one another."""


class StudyFileError(SabtuneError):
    """A file that should hold a STUDY and a space(trial), and doesn't."""


class RejectedError(StudyFileError):
    """A configuration that the space pruned, or that is no valid one; another may be."""


class StoreError(SabtuneError):
    """A store that can't be written, is in use, or holds no such study."""


class RefusedError(StoreError):
    """An object store that doesn't let us in, and won't until a person changes something."""


class DataError(SabtuneError):
    """A data set that is missing, damaged, or can't be downloaded."""


class ResourceError(SabtuneError):
    """A trial that asks for more than the machine or cluster has."""


class ClusterError(SabtuneError):
    """A cluster that its file doesn't describe, that can't be reached, or that refuses."""


class CheckpointError(SabtuneError):
    """A checkpoint that is missing, damaged, or of another configuration."""


class DivergedError(SabtuneError):
    """Training that can't go on: no finite update for a long stretch."""


class LimitError(SabtuneError):
    """A trial past what its study lets it take."""


class TrackingError(SabtuneError):
    """An MLflow that can't be reached, refuses what is written, or shows another study."""
