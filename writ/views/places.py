"""Where a node keeps what belongs to the views of a partition. Imports nothing."""


def views_folder(partition: int) -> str:
    """The name of the folder, of views and of their snapshots."""
    return "views" if partition == 0 else f"views-{partition}"
