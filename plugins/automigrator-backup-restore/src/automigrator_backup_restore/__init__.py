"""The strategy `backup-restore`: a copy before a migration, put back when it fails."""

from automigrator_backup_restore.strategy import BackupRestore

__all__ = ["BackupRestore"]
