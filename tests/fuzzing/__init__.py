"""All readers of third-party text, as functions of bytes."""
