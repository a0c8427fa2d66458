"""Files to and from local disks and object stores."""
