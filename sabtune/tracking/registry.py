"""A study's entry among MLflow's registered models, under the study's name.

Its versions are models of the study's trials; the alias `champion` is on the one that the study
stands by. A version's tags say which trial it is of, and whether its configuration was confirmed.
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
    """The registered model of a study, made if need be; it is none of another's.

    Every method raises what MLflow raises: any exception.
    """

    def __init__(self, client: MlflowClient, study: str):
        self.client, self.study = client, study
        self.aliases = {key: str(value) for key, value in self._entry().aliases.items()}

    def show(self, models: Sequence[tuple[Version, LoggedModel]], champion: int) -> None:
        """Has a version of each model, in their order, and the alias on the champion's.

        champion: the number of its trial, which is one of theirs.
        """
        for version, model in models:
            made = self._version(model)
            for key, value in confirmation(version).items():
                if made.tags.get(key) != value:
                    self.client.set_model_version_tag(self.study, made.version, key, value)
            words = f"T{version.words[1:]}."  # as a sentence
            if made.description != words:
                self.client.update_model_version(self.study, made.version, words)
            if version.trial == champion and self.aliases.get(ALIAS) != str(made.version):
                self.client.set_registered_model_alias(self.study, ALIAS, made.version)
                self.aliases[ALIAS] = str(made.version)

    def _entry(self) -> RegisteredModel:
        """Raises TrackingError if the name is another's."""
        try:
            found = self.client.get_registered_model(self.study)
        except MlflowException as problem:
            if problem.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            words = f"Models of the study {self.study}. {ALIAS}: the one that it stands by."
            return self.client.create_registered_model(self.study, {STUDY: self.study}, words)
        if found.tags.get(STUDY) != self.study:
            raise TrackingError(
                f"MLflow has a registered model {self.study!r} that is none of this study's: "
                "rename one"
            )
        return found

    def _version(self, model: LoggedModel) -> ModelVersion:
        for version in self.client.search_model_versions(f"name='{self.study}'"):
            if version.source == model.artifact_location:
                return version
        kept = (NUMBER, CONFIGURATION, SEED)
        made = self.client.create_model_version(
            self.study,
            source=model.artifact_location,  # not models:/m-…: MLflow would look for it elsewhere
            run_id=model.source_run_id,
            tags={key: value for key, value in model.tags.items() if key in kept},
            model_id=model.model_id,
        )
        if MLFLOW_MODEL_VERSIONS not in self.client.get_logged_model(model.model_id).tags:
            shown = json.dumps([{"name": self.study, "version": made.version}])  # a server does it
            self.client.set_logged_model_tags(model.model_id, {MLFLOW_MODEL_VERSIONS: shown})
        return made


def confirmation(version: Version) -> dict[str, str]:
    """What speaks for a version, as tags."""
    if not version.confirmed:
        return {CONFIRMED: "false"}
    return {
        CONFIRMED: "true",
        COMPARISON: version.contest,
        SEEDS: str(version.seeds),
        ACCURACY: f"{version.accuracy:.4f}",
        LENGTH: str(version.length),
    }
