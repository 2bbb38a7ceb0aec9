"""Work on several processes, here or on a cluster."""

from secateur.scale.workers import Here, RayWorkers, Shared, Workers

__all__ = ["Here", "RayWorkers", "Shared", "Workers"]
