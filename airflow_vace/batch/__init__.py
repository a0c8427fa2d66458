"""Many predictions in one task: rows, records in chunks, submission, wait, and manifest."""
