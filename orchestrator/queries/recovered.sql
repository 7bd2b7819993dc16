-- Share of the effect recovered (a ratio of sums, never a mean of ratios), by site, layer and position.
SELECT
    study, model, dtype, left(revision, 12) AS revision, site, layer, base_position,
    sum(logit_diff - base_run_logit_diff) / sum(source_run_logit_diff - base_run_logit_diff) AS recovered,
    count(logit_diff) AS n
FROM results
GROUP BY ALL
ORDER BY ALL
