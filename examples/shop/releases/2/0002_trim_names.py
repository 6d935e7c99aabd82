"""names without blanks around them"""

import time

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("UPDATE products SET name = trim(name)")
    time.sleep(4)  # stands for a table that is large


def downgrade() -> None:
    pass
