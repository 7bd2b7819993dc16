-- Throughput of each model on each worker: jobs done, seconds, jobs per second, and the share of time in capture.
SELECT
    study, model, dtype, left(revision, 12) AS revision, host, worker,
    count(*) AS batches,
    sum(num_rows)::BIGINT AS jobs,
    sum(num_failed)::BIGINT AS failed,
    sum(total_s) AS total_s,
    sum(num_rows) / sum(total_s) AS jobs_per_s,
    sum(model_s) / sum(total_s) AS model_share,
    sum(capture_s) / sum(total_s) AS capture_share
FROM batches
GROUP BY ALL
ORDER BY study, model, dtype, revision, host, worker
