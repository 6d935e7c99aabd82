"""The executor `dask`: bring the tenants of a fleet on the workers of a Dask cluster."""

from automigrator_dask.executor import DaskExecutor

__all__ = ["DaskExecutor"]
