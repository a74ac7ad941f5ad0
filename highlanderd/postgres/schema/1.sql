-- The ledger of highlanderd: who leads what, and under which epoch. All nodes of a namespace share one.
-- Rows of "lease" are never deleted; an epoch only grows.

-- A role that owns its schema and may create no other one is enough: CREATE SCHEMA IF NOT EXISTS would refuse it.
DO $$
BEGIN
    IF to_regnamespace({schema_text}) IS NULL THEN
        CREATE SCHEMA {schema};
    END IF;
END
$$;

CREATE TABLE {schema}.meta (
    one              boolean PRIMARY KEY DEFAULT true CHECK (one),
    version          integer NOT NULL,
    namespace        text NOT NULL,
    lease            interval NOT NULL CHECK (lease BETWEEN '2 seconds' AND '60 seconds'),
    settled_system   bigint,
    settled_timeline bigint,
    offsets          jsonb NOT NULL
);
COMMENT ON TABLE {schema}.meta IS 'One row about the ledger itself. Change the lease with set_lease() only.';

INSERT INTO {schema}.meta (version, namespace, lease, offsets)
SELECT 1, {namespace}, {lease}, jsonb_build_object(system_identifier::text, {offset}) FROM pg_control_system();

CREATE TABLE {schema}.lease (
    lock_id          bigint PRIMARY KEY,
    program          text NOT NULL,
    epoch            bigint NOT NULL,
    renewal          bigint NOT NULL,
    node             text NOT NULL,
    instance         uuid NOT NULL,
    system           bigint NOT NULL,
    timeline         bigint NOT NULL,
    backend_pid      integer NOT NULL,
    backend_start    bigint NOT NULL,
    acquired_at      timestamptz NOT NULL,
    expires_at       timestamptz NOT NULL,
    released_at      timestamptz,
    reason           text,
    reserved_for     text,
    reserved_seconds double precision
) WITH (fillfactor = 50);
CREATE UNIQUE INDEX lease_epoch ON {schema}.lease (lock_id, epoch);
CREATE INDEX lease_program ON {schema}.lease (program);
COMMENT ON TABLE {schema}.lease IS 'One row per lock id. expires_at is for people; nothing is decided by it.';

CREATE TABLE {schema}.term (
    lock_id     bigint NOT NULL,
    epoch       bigint NOT NULL,
    program     text NOT NULL,
    node        text NOT NULL,
    acquired_at timestamptz NOT NULL,
    ended_at    timestamptz,
    reason      text,
    PRIMARY KEY (lock_id, epoch)
);
COMMENT ON TABLE {schema}.term IS 'History: every term, who led it, from when to when, and why it ended.';

CREATE FUNCTION {schema}.refuse_removal() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of the lease table are never removed: they hold the epochs that fence old leaders'
        USING ERRCODE = 'restrict_violation', HINT = 'Leave the row; it costs nothing.';
END
$$;
CREATE TRIGGER refuse_delete BEFORE DELETE ON {schema}.lease
    FOR EACH ROW EXECUTE FUNCTION {schema}.refuse_removal();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON {schema}.lease
    FOR EACH STATEMENT EXECUTE FUNCTION {schema}.refuse_removal();

-- For the child's own transactions: it raises unless the epoch still leads, and no node can take over before the
-- transaction has ended. Renewals do not wait for it. The timeouts end the transaction of a host that is lost.
CREATE FUNCTION {schema}.assert_leader(lock_id bigint, epoch bigint) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    milliseconds bigint;
BEGIN
    SELECT (extract(epoch FROM m.lease) * 1000)::bigint INTO STRICT milliseconds FROM {schema}.meta AS m;
    PERFORM set_config('idle_in_transaction_session_timeout', milliseconds::text, true),
            set_config('client_connection_check_interval', (milliseconds / 5)::text, true),
            set_config('tcp_keepalives_idle', greatest(1, milliseconds / 5000)::text, true),
            set_config('tcp_keepalives_interval', greatest(1, milliseconds / 5000)::text, true),
            set_config('tcp_keepalives_count', '3', true);
    PERFORM 1 FROM {schema}.lease AS l
      WHERE l.lock_id = assert_leader.lock_id AND l.epoch = assert_leader.epoch AND l.released_at IS NULL
      FOR KEY SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'epoch % of lock id % does not lead any more', epoch, lock_id
            USING ERRCODE = 'lock_not_available', HINT = 'Another term has begun or this one has ended: stop.';
    END IF;
END
$$;
COMMENT ON FUNCTION {schema}.assert_leader(bigint, bigint) IS
    'Call first in each transaction that only the leader may make, with HIGHLANDER_LOCK_ID and HIGHLANDER_EPOCH.';

CREATE FUNCTION {schema}.set_lease(lease interval) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    leaders text;
BEGIN
    LOCK TABLE {schema}.lease IN SHARE ROW EXCLUSIVE MODE;
    -- After a failover that lost the last terms, a leader may live whose row reads released.
    PERFORM 1 FROM {schema}.meta AS m, pg_control_system() AS c
      WHERE m.settled_system = c.system_identifier
        AND m.settled_timeline = ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the lease cannot change before the ledger has settled on this server; try again in a minute'
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'A daemon that waits for a lead settles it.';
    END IF;
    SELECT string_agg(l.program || ' on ' || l.node, ', ' ORDER BY l.program) INTO leaders
      FROM {schema}.lease AS l WHERE l.released_at IS NULL;
    IF leaders IS NOT NULL THEN
        RAISE EXCEPTION 'the lease cannot change while a term is unreleased: %; stop these programs on every node', leaders
            USING ERRCODE = 'object_in_use';
    END IF;
    UPDATE {schema}.meta SET lease = set_lease.lease;
END
$$;
