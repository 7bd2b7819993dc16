"""Planning, scheduling, storing and answering: everything about a study but the model itself."""
