"""Files of which nobody would think, given to real commands: every one is planned or refused in one message."""
