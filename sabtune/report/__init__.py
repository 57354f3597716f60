"""What a study says: on the terminal, as tables, as figures and as a page."""

from sabtune.report.summary import summary
from sabtune.report.writing import write

__all__ = ["summary", "write"]
