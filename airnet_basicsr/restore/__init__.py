"""Restoring people's own pictures. Nothing here knows BasicSR."""

from airnet_basicsr.restore.restorer import Resemblance, Restorer

__all__ = ['Resemblance', 'Restorer']
