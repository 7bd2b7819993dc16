-- How each training does at its end on the test split: the least and the most accurate of its seeds.
SELECT
    COLUMNS(lambda c: c NOT IN ('training', 'seed', 'step', 'epoch', 'split', 'error', 'value')),
    min(value) AS least,
    max(value) AS most,
    count(*) AS seeds
FROM (FROM curves QUALIFY step = max(step) OVER (PARTITION BY study, training))
WHERE split = 'test' AND metric IN ('task_accuracy', 'interchange_accuracy')
GROUP BY ALL
ORDER BY ALL
