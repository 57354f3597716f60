"""A study: what is asked, in its file, and what is known, in the store."""
