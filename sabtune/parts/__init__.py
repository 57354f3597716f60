"""Parts of a study from your own code: how they are named, stored and loaded again."""
