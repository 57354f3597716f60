"""The report of a study: tables, figures and an HTML page."""

from sabtune.reporting.write import write

__all__ = ["write"]
