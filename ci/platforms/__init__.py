"""Virtual environments, whose layout differs between platforms."""
