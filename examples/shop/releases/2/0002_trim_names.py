"""names without blanks around them"""

import os
import time

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    for _ in range(int(os.environ.get("SHOP_PORTIONS", "80"))):  # stands for a table that is large
        op.execute("UPDATE products SET name = trim(name)")
        time.sleep(0.1)


def downgrade() -> None:
    pass
