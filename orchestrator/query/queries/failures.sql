-- Failed jobs by model and error, most frequent first, with one job of each.
SELECT
    study, model, dtype, left(revision, 12) AS revision, error_type, error_message,
    count(*) AS n,
    max(attempt) AS attempts,
    arg_min(base, job_id) AS example_base,
    min(job_id) AS example_job_id
FROM failures
GROUP BY ALL
ORDER BY n DESC, study, model, dtype, revision, error_type, error_message
