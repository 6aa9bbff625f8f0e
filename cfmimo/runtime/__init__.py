"""Where nodes run: all in one process, or as Ray actors."""
