"""Studies: their definition in a study file, and their record in the store."""
