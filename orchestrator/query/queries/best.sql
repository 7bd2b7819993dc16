-- The five places of each site with the highest accuracy, and the share of the effect recovered there.
WITH places AS (
    SELECT
        avg(iia) AS iia,
        sum(logit_diff - base_run_logit_diff)
            / nullif(sum(source_run_logit_diff - base_run_logit_diff), 0) AS recovered,
        count(*) AS n,
        count(*) FILTER (near_tie) AS near_ties,
        COLUMNS(lambda c: list_contains(getvariable('axes'), c)),
        row(*COLUMNS(lambda c: c IN ('study', 'model', 'dtype', 'revision', 'site'))) AS _kind,
        row(*COLUMNS(lambda c: list_contains(getvariable('axes'), c))) AS _place
    FROM (SELECT * REPLACE (left(revision, 12) AS revision) FROM results)
    GROUP BY ALL
)
SELECT * EXCLUDE (_kind, _place)
FROM places
QUALIFY row_number() OVER (
    PARTITION BY _kind ORDER BY iia DESC NULLS LAST, recovered DESC NULLS LAST, _place
) <= 5
ORDER BY _kind, iia DESC NULLS LAST, recovered DESC NULLS LAST, _place
