-- Interchange accuracy and change of the logit difference, by all axes that vary.
SELECT
    COLUMNS(lambda c: list_contains(getvariable('axes'), c)),
    avg(iia) AS iia,
    avg(logit_diff - base_run_logit_diff) AS logit_diff_change,
    count(*) AS n,
    count(*) FILTER (near_tie) AS near_ties
FROM (SELECT * REPLACE (left(revision, 12) AS revision) FROM results)
GROUP BY ALL
ORDER BY ALL
