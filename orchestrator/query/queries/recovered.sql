-- Share of the effect recovered (a ratio of sums, never a mean of ratios), by all axes that vary.
SELECT
    COLUMNS(lambda c: list_contains(getvariable('axes'), c)),
    sum(logit_diff - base_run_logit_diff)
        / nullif(sum(source_run_logit_diff - base_run_logit_diff), 0) AS recovered,
    count(logit_diff) AS n
FROM (SELECT * REPLACE (left(revision, 12) AS revision) FROM results)
GROUP BY ALL
ORDER BY ALL
