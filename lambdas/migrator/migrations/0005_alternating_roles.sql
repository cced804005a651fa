-- The loader's second login. Rotation changes the password of the one that is not in use, so what is in use never fails.
-- It owns nothing and is granted nothing of its own: whatever iot_loader may do, now and later, it may as a member of it.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'iot_loader_clone') THEN
        CREATE ROLE iot_loader_clone NOLOGIN;
    END IF;
END $$;

GRANT iot_loader TO iot_loader_clone;
