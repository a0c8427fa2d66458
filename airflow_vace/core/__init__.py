"""The protocol as pure code: back-ends, requests, responses, errors, retries, waits. No I/O, no clock."""
