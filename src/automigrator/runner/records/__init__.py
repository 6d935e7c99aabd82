"""What earlier starts have left: their record, failed starts in a row, checksums of revisions."""
