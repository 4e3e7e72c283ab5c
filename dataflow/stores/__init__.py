"""Places: paths of this machine, and of object stores."""
