"""What a study says: on the terminal, as tables, as figures and as a page."""

from sabtune.report.write import write

__all__ = ["write"]
