-- Being written: the loader's second login, for rotation without downtime.
SELECT 1;
