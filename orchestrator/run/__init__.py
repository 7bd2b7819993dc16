"""Running a study: what is handed out to whom, and what becomes of it."""
