"""What a finished study says, as tables."""

from sabtune.report.summary import summary

__all__ = ["summary"]
