"""What differs between platforms: library names, audits, environments."""
