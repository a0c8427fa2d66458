"""Everything that reads what strangers have written, each as functions of bytes."""
