"""The registered model of a study in MLflow, under the study's name.

Its versions are models of the study's trials, and the alias `champion` marks the best one. A
version's tags contain the number of its trial, and whether its configuration was confirmed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from mlflow import MlflowClient
from mlflow.entities import LoggedModel
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

from sabtune.errors import TrackingError
from sabtune.study.events import Version
from sabtune.tracking.trial_run import CONFIGURATION, NUMBER, SEED

ALIAS = "champion"

STUDY = "sabtune.study"
CONFIRMED = "sabtune.confirmed"
COMPARISON = "sabtune.confirmed_in"
SEEDS = "sabtune.confirmed_seeds"
ACCURACY = "sabtune.confirmed_accuracy"
LENGTH = "sabtune.confirmed_length"


class Registry:
    """The registered model of a study, created if it does not exist.

    Every method, including the constructor, may raise any exception of MLflow. The constructor
    raises TrackingError if a registered model of this name is not this study's.
    """

    def __init__(self, client: MlflowClient, study: str):
        self.client, self.study = client, study
        self.aliases = {key: str(value) for key, value in self._registered_model().aliases.items()}

    def update(self, models: Sequence[tuple[Version, LoggedModel]], champion: int) -> None:
        """Create or update a version of each model, in this order, and set the alias.

        champion: The number of the champion's trial; `models` contains its model.
        """
        for version, model in models:
            registered = self._version(model)
            for key, value in confirmation(version).items():
                if registered.tags.get(key) != value:
                    self.client.set_model_version_tag(self.study, registered.version, key, value)
            description = f"T{version.words[1:]}."  # as a sentence
            if registered.description != description:
                self.client.update_model_version(self.study, registered.version, description)
            if version.trial == champion and self.aliases.get(ALIAS) != str(registered.version):
                self.client.set_registered_model_alias(self.study, ALIAS, registered.version)
                self.aliases[ALIAS] = str(registered.version)

    def _registered_model(self) -> RegisteredModel:
        """Return the registered model, created if it does not exist.

        Raises TrackingError if a registered model of this name is not this study's.
        """
        try:
            model = self.client.get_registered_model(self.study)
        except MlflowException as problem:
            if problem.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            description = f"Models of the study {self.study}. The alias {ALIAS} marks the best one."
            return self.client.create_registered_model(self.study, {STUDY: self.study}, description)
        if model.tags.get(STUDY) != self.study:
            raise TrackingError(
                f"MLflow has a registered model {self.study!r} that is none of this study's: "
                "rename one of them"
            )
        return model

    def _version(self, model: LoggedModel) -> ModelVersion:
        """Return the version of a model, created if it does not exist."""
        for version in self.client.search_model_versions(f"name='{self.study}'"):
            if version.source == model.artifact_location:
                return version
        copied_tags = (NUMBER, CONFIGURATION, SEED)
        created = self.client.create_model_version(
            self.study,
            source=model.artifact_location,  # not models:/m-…: MLflow would look elsewhere
            run_id=model.source_run_id,
            tags={key: value for key, value in model.tags.items() if key in copied_tags},
            model_id=model.model_id,
        )
        if MLFLOW_MODEL_VERSIONS not in self.client.get_logged_model(model.model_id).tags:
            versions = json.dumps([{"name": self.study, "version": created.version}])
            # a server sets this tag itself
            self.client.set_logged_model_tags(model.model_id, {MLFLOW_MODEL_VERSIONS: versions})
        return created


def confirmation(version: Version) -> dict[str, str]:
    """Return the tags of a version: whether and how its configuration was confirmed."""
    if not version.confirmed:
        return {CONFIRMED: "false"}
    return {
        CONFIRMED: "true",
        COMPARISON: version.contest,
        SEEDS: str(version.seeds),
        ACCURACY: f"{version.accuracy:.4f}",
        LENGTH: str(version.length),
    }
