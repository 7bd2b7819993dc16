-- Interchange accuracy and change of the logit difference, by site, layer and position.
SELECT
    study, model, dtype, left(revision, 12) AS revision, site, layer, base_position,
    avg(iia) AS iia,
    avg(logit_diff - base_run_logit_diff) AS logit_diff_change,
    count(*) AS n
FROM results
GROUP BY ALL
ORDER BY ALL
