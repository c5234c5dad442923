"""Makers of accelerators: facts from `env/vendors/V.yaml`, one module where a listing is parsed."""

from flagdeploy.vendors.base import Device, Plugin, Vendor, load, names

__all__ = ["Device", "Plugin", "Vendor", "load", "names"]
