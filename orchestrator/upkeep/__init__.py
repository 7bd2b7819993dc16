"""Studies looked at from outside: status, logs, lost rows and their repair, the doctor."""
