"""The strategy `backup-restore`: a snapshot before a migration, restored when it fails."""

from automigrator_backup_restore.strategy import BackupRestore

__all__ = ["BackupRestore"]
