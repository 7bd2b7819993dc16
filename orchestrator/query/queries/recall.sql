-- Of the cells with the largest exact effects, the share that screening kept, with its 95 % range, by model.
-- The top is as many cells as were kept. A cell of the sample stands for as many as were not run for each that
-- was (weight); the range is Wilson's for the share of the sample that belongs to the top.
WITH found AS (
    SELECT DISTINCT study, model, dtype, revision, cell_id, selected, weight, exact_effect
    FROM screening
    WHERE selected IN ('kept', 'sampled') AND exact_effect IS NOT NULL
),
ranked AS (
    SELECT
        *,
        count(*) FILTER (selected = 'kept') OVER (PARTITION BY study, model, dtype, revision) AS top,
        sum(weight) OVER (
            PARTITION BY study, model, dtype, revision ORDER BY exact_effect DESC, cell_id
            ROWS UNBOUNDED PRECEDING
        ) - weight AS above
    FROM found
),
counted AS (
    SELECT
        study, model, dtype, revision, any_value(top) AS kept,
        count(*) FILTER (selected = 'sampled') AS sampled,
        round(coalesce(sum(weight) FILTER (selected = 'sampled'), 0)) AS others,
        count(*) FILTER (selected = 'sampled' AND above < top) AS sampled_in_top,
        sum(least(weight, top - above)) FILTER (selected = 'kept' AND above < top) AS found
    FROM ranked
    GROUP BY ALL
),
ranged AS (
    SELECT
        *,
        sampled_in_top / sampled AS share,
        -- Where all of the others ran, nothing is uncertain.
        CASE WHEN sampled = others THEN 0.0 ELSE 1.96 END AS z
    FROM counted
)
SELECT
    study, model, dtype, left(revision, 12) AS revision, kept, others::BIGINT AS others, sampled, sampled_in_top,
    CASE WHEN sampled > 0 OR others = 0 THEN coalesce(found, 0) / kept END AS recall,
    greatest(0, 1 - others / kept * (
        (share + z * z / (2 * sampled)) / (1 + z * z / sampled)
        + z / (1 + z * z / sampled) * sqrt(share * (1 - share) / sampled + z * z / (4 * sampled * sampled))
    )) AS at_least,
    greatest(0, least(1, 1 - others / kept * (
        (share + z * z / (2 * sampled)) / (1 + z * z / sampled)
        - z / (1 + z * z / sampled) * sqrt(share * (1 - share) / sampled + z * z / (4 * sampled * sampled))
    ))) AS at_most
FROM ranged
ORDER BY study, model, dtype, revision
