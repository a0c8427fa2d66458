"""One prediction, one bill: orders, records, decisions, the ledger and the submitter."""
