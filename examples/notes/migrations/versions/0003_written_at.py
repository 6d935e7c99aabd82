"""when a note was written"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    with op.batch_alter_table("notes") as notes:
        notes.add_column(
            sa.Column("written_at", sa.DateTime, server_default=sa.func.current_timestamp())
        )


def downgrade() -> None:
    with op.batch_alter_table("notes") as notes:
        notes.drop_column("written_at")
