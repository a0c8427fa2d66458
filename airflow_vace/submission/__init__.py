"""One prediction, one bill: the record of a task's prediction, and the submitter that keeps it."""
