"""Acts on monitors and their alerts, webhooks that are told of them, and which act told of an alert."""

from alembic import op

revision = "0026"
down_revision = "0025"

_STATEMENTS = """
ALTER TABLE activity ALTER COLUMN person_id DROP NOT NULL;
ALTER TABLE activity ALTER COLUMN sae_id DROP NOT NULL;
ALTER TABLE activity ALTER COLUMN label_set_id DROP NOT NULL;
ALTER TABLE activity ALTER COLUMN subject TYPE BIGINT;
ALTER TABLE activity ADD COLUMN monitor_id INTEGER;
ALTER TABLE activity ADD COLUMN monitor VARCHAR;
ALTER TABLE activity ADD COLUMN alerts INTEGER;
ALTER TABLE activity ADD COLUMN open_until TIMESTAMP WITH TIME ZONE;
ALTER TABLE activity ADD CONSTRAINT fk_activity_monitor_id_monitor
    FOREIGN KEY(monitor_id) REFERENCES monitor (id) ON DELETE SET NULL;
ALTER TABLE activity ADD CONSTRAINT ck_activity_of
    CHECK (num_nonnulls(label_set_id, monitor) = 1 AND (sae_id IS NULL) = (label_set_id IS NULL));
ALTER TABLE activity ADD CONSTRAINT ck_activity_person CHECK (person_id IS NOT NULL OR alerts IS NOT NULL);
CREATE INDEX ix_activity_of_monitor ON activity (monitor_id, id);
ALTER TABLE webhook ALTER COLUMN sae_id DROP NOT NULL;
ALTER TABLE webhook ADD COLUMN monitor_id INTEGER;
ALTER TABLE webhook ADD COLUMN monitor VARCHAR;
ALTER TABLE webhook ADD CONSTRAINT fk_webhook_monitor_id_monitor
    FOREIGN KEY(monitor_id) REFERENCES monitor (id) ON DELETE SET NULL;
ALTER TABLE webhook ADD CONSTRAINT ck_webhook_of CHECK (num_nonnulls(sae_id, monitor) = 1);
CREATE INDEX ix_webhook_monitor_id ON webhook (monitor_id);
ALTER TABLE monitor_alert ADD COLUMN activity_id BIGINT;
ALTER TABLE monitor_alert ADD CONSTRAINT fk_monitor_alert_activity_id_activity
    FOREIGN KEY(activity_id) REFERENCES activity (id) ON DELETE SET NULL;
CREATE INDEX ix_monitor_alert_activity_id ON monitor_alert (activity_id);
"""


def upgrade() -> None:
    for statement in _STATEMENTS.strip().split(";"):
        if statement.strip():
            op.execute(statement)
