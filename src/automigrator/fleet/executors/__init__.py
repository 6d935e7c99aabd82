"""Where tenants are migrated: in this process, in several, or on other machines."""
