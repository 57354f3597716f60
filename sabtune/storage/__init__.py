"""The locations of studies and their files: folders, object stores and databases."""
