"""The backends, one file each: the same verbs in the same order, so that only the storage differs."""
