"""Files of which nobody would think, given to real commands: each is planned, or refused in one message."""
