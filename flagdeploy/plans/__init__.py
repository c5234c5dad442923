"""Pure planning: (Deployment, Facts) -> Plan. Nothing here reads, writes, connects or prints."""
