"""Makers of accelerators: facts from `env/vendors/V.yaml`, one module where a listing is parsed."""

from flagdeploy.vendors.base import Device, Vendor, load, names

__all__ = ["Device", "Vendor", "load", "names"]
