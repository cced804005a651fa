-- Being written: what the watch and the sweeper keep.
SELECT 1;
