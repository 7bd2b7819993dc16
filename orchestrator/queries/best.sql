-- The five places of each site with the highest accuracy, and the share of the effect recovered there.
WITH places AS (
    SELECT
        study, model, dtype, left(revision, 12) AS revision, site, layer, base_position,
        avg(iia) AS iia,
        sum(logit_diff - base_run_logit_diff) / sum(source_run_logit_diff - base_run_logit_diff) AS recovered,
        count(*) AS n
    FROM results
    GROUP BY ALL
)
SELECT *
FROM places
QUALIFY row_number() OVER (
    PARTITION BY study, model, dtype, revision, site
    ORDER BY iia DESC NULLS LAST, recovered DESC NULLS LAST, layer, base_position
) <= 5
ORDER BY study, model, dtype, revision, site, iia DESC NULLS LAST, recovered DESC NULLS LAST, layer, base_position
